/* Numbers: a text of floats between commas, blanks and line ends, in the order of the input; lines that begin with # are left out. */

static int read_numbers(const char *path, float *to, long count)
{
    FILE *file = fopen(path, "r");
    char word[64], line[160];
    long found = 0;
    int c, length = 0, comment = 0;
    if (file == NULL)
        return complain(path, "can't be opened");
    do {
        c = fgetc(file);
        if (comment) {
            comment = c != '\n' && c != EOF;
        } else if (c == '#') {
            comment = 1;
        } else if (c == ',' || c == ';' || c == ' ' || c == '\t' || c == '\r' || c == '\n' || c == EOF) {
            char *end;
            double value;
            if (length == 0)
                continue;
            word[length] = 0;
            value = strtod(word, &end);
            if (*end || !(value >= -3.0e38 && value <= 3.0e38)) {
                fclose(file);
                for (end = word; *end; end++)
                    if (*end < ' ' || *end > '~')
                        *end = '?';
                sprintf(line, "value %ld, '%.40s', is not a finite number", found + 1, word);
                return complain(path, line);
            }
            if (found < count)
                to[found] = (float)value;
            found++;
            length = 0;
        } else if (length < (int)sizeof word - 1) {
            word[length++] = (char)c;
        }
    } while (c != EOF);
    fclose(file);
    if (found != count) {
        sprintf(line, "holds %ld numbers, expected %ld", found, count);
        return complain(path, line);
    }
    return 0;
}
