/* Numbers: a text of floats between commas, semicolons, blanks and line ends, in the order of the input. What stands behind a # is left
 * out, up to the line's end. */

static int between_numbers(int c)
{
    return c == ',' || c == ';' || c == ' ' || c == '\t' || c == '\r' || c == '\n' || c == '#' || c == EOF;
}

/* A whole word of `length` characters as a finite number. */
static int number_of(const char *word, int length, float *value)
{
    char *end;
    const double found = strtod(word, &end);
    if (end != word + length || !(found >= -3.0e38 && found <= 3.0e38))
        return 1;
    *value = (float)found;
    return 0;
}

static int complain_of_word(const char *path, long place, char *word)
{
    char line[160];
    char *c;
    for (c = word; *c; c++)
        if (*c < ' ' || *c > '~')
            *c = '?';
    sprintf(line, "value %ld, '%.40s', is not a finite number; put # before lines that hold none", place, word);
    return complain(path, line);
}

static int read_text(FILE *file, const char *path, float *to, long count)
{
    static const int mark[3] = {0xEF, 0xBB, 0xBF}; /* which some programs put before a text in UTF-8 */
    char word[64], line[80];
    long found = 0;
    int c, marks = 0, length = 0, comment = 0;
    do {
        c = fgetc(file);
        if (marks < 3 && c == mark[marks]) {
            marks++;
            continue;
        }
        marks = 3;
        if (!comment && !between_numbers(c)) {
            if (length < (int)sizeof word - 1)
                word[length] = (char)c;
            length += length < (int)sizeof word;
        } else if (length > 0) {
            float value;
            const int too_long = length == (int)sizeof word;
            length -= too_long;
            word[length] = 0;
            if (too_long || number_of(word, length, &value))
                return complain_of_word(path, found + 1, word);
            if (found < count)
                to[found] = value;
            found++;
            length = 0;
        }
        comment = (comment || c == '#') && c != '\n';
    } while (c != EOF);
    if (ferror(file))
        return complain(path, "can't be read");
    if (found != count) {
        sprintf(line, "holds %ld numbers, expected %ld", found, count);
        return complain(path, line);
    }
    return 0;
}

static int read_numbers(const char *path, float *to, long count)
{
    FILE *file = fopen(path, "r");
    int failed;
    if (file == NULL)
        return complain(path, "can't be opened");
    failed = read_text(file, path, to, count);
    fclose(file);
    return failed;
}
