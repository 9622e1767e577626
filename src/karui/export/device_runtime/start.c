/* The one way out when something is wrong: a line that names the file, and status 1. */

static int complain(const char *path, const char *what)
{
    fprintf(stderr, "%s: %s\n", path, what);
    return 1;
}
