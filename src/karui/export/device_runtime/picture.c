/* Pictures: binary PGM and PPM of any size, with one or two bytes a value, to bytes [height][width][channels]. */

#define MOST_PIXELS 100000000L

static int read_number(FILE *file, long *value)
{
    int c = fgetc(file);
    while (c == '#' || c == ' ' || c == '\t' || c == '\r' || c == '\n') {
        if (c == '#')
            while (c != '\n' && c != EOF)
                c = fgetc(file);
        c = fgetc(file);
    }
    if (c < '0' || c > '9')
        return 1;
    for (*value = 0; c >= '0' && c <= '9'; c = fgetc(file)) {
        *value = *value * 10 + (c - '0');
        if (*value > 65535)
            return 1;
    }
    return c == EOF; /* exactly one blank ends a number; behind the last one the pixels begin */
}

static unsigned char grey_of(const unsigned char *rgb)
{
    return (unsigned char)((rgb[0] * 19595L + rgb[1] * 38470L + rgb[2] * 7471L + 32768L) >> 16); /* ITU-R BT.601 */
}

/* Every result is the mean of the pixels under it: a box when the picture shrinks, the nearest pixel when it grows. */
static void resize(const unsigned char *from, long width, long height, long colours, unsigned char *to, long w, long h, long channels)
{
    long x, y, c, i, j;
    for (y = 0; y < h; y++)
        for (x = 0; x < w; x++) {
            const long x0 = x * width / w, y0 = y * height / h;
            const long x1 = ((x + 1) * width + w - 1) / w, y1 = ((y + 1) * height + h - 1) / h;
            const long right = width >= w ? x1 : x0 + 1, bottom = height >= h ? y1 : y0 + 1, count = (right - x0) * (bottom - y0);
            unsigned long sum[3] = {0, 0, 0};
            unsigned char mean[3];
            for (j = y0; j < bottom; j++)
                for (i = x0; i < right; i++)
                    for (c = 0; c < colours; c++)
                        sum[c] += from[(j * width + i) * colours + c];
            for (c = 0; c < colours; c++)
                mean[c] = (unsigned char)((sum[c] + (unsigned long)count / 2) / (unsigned long)count);
            for (c = 0; c < channels; c++)
                *to++ = colours == channels ? mean[c] : channels == 1 ? grey_of(mean) : mean[0];
        }
}

/* One value of the picture, 0 … 255; EOF at the file's end. */
static long read_value(FILE *file, long most)
{
    long value = fgetc(file);
    if (most > 255 && value != EOF) {
        const int low = fgetc(file);
        value = low == EOF ? EOF : value * 256 + low;
    }
    if (value == EOF || most == 255)
        return value;
    return ((value > most ? most : value) * 255 + most / 2) / most;
}

static int decode_picture(FILE *file, const char *path, unsigned char *to, long w, long h, long channels)
{
    unsigned char *bytes;
    long width, height, most, colours, count, i;
    const int kind = fgetc(file) == 'P' ? fgetc(file) : 0;
    if (ferror(file))
        return complain(path, "can't be read");
    if (kind != '5' && kind != '6')
        return complain(path, "is not a binary PGM or PPM picture (P5 or P6); convert it first");
    if (read_number(file, &width) || read_number(file, &height) || read_number(file, &most) || width < 1 || height < 1 || most < 1)
        return complain(path, "has a damaged header");
    if (width > MOST_PIXELS / height)
        return complain(path, "has more than 100 million pixels; make it smaller");
    colours = kind == '6' ? 3 : 1;
    count = width * height * colours;
    bytes = (unsigned char *)malloc((size_t)count);
    if (bytes == NULL)
        return complain(path, "doesn't fit into memory; make it smaller");
    for (i = 0; i < count; i++) {
        const long value = read_value(file, most);
        if (value == EOF) {
            free(bytes);
            return complain(path, "ends in the middle of the picture");
        }
        bytes[i] = (unsigned char)value;
    }
    resize(bytes, width, height, colours, to, w, h, channels);
    free(bytes);
    return 0;
}

static int read_picture(const char *path, unsigned char *to, long w, long h, long channels)
{
    FILE *file = fopen(path, "rb");
    int failed;
    if (file == NULL)
        return complain(path, "can't be opened");
    failed = decode_picture(file, path, to, w, h, channels);
    fclose(file);
    return failed;
}
