#include "client/table.h"

#include "base/clock.h"
#include "base/mem.h"
#include "client/show.h"

#include <stdarg.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

struct table {
    unsigned columns;
    bool right[TABLE_COLUMNS];
    char *titles[TABLE_COLUMNS];
    char **cells; /* row by row */
    size_t cell_ct;
};

struct table *table_new(const char *titles)
{
    struct table *t = xcalloc(1, sizeof(*t));
    cleanup_free char *copy = xstrdup(titles);
    char *save = NULL;

    for (char *w = strtok_r(copy, " ", &save); w != NULL && t->columns < TABLE_COLUMNS;
         w = strtok_r(NULL, " ", &save)) {
        t->right[t->columns] = *w == '>';
        t->titles[t->columns++] = xstrdup(w + (*w == '>'));
    }
    return t;
}

void table_free(struct table *t)
{
    for (unsigned i = 0; i < t->columns; i++)
        free(t->titles[i]);
    for (size_t i = 0; i < t->cell_ct; i++)
        free(t->cells[i]);
    free(t->cells);
    free(t);
}

void table_cell(struct table *t, const char *fmt, ...)
{
    char text[1024];
    va_list ap;

    va_start(ap, fmt);
    show_clean(text, sizeof(text), fmt, ap);
    va_end(ap);
    t->cells = xrealloc(t->cells, (t->cell_ct + 1) * sizeof(*t->cells));
    t->cells[t->cell_ct++] = xstrdup(text);
}

/* Characters, not bytes: close enough for names of people. */
static unsigned columns_of(const char *text)
{
    unsigned n = 0;

    for (; *text != '\0'; text++)
        n += ((unsigned char)*text & 0xc0) != 0x80;
    return n;
}

static void pad(FILE *out, unsigned count)
{
    fprintf(out, "%*s", (int)count, "");
}

/* Bytes of the first `most` characters. */
static int bytes_of(const char *text, unsigned most)
{
    const char *s = text;

    while (*s != '\0' && (((unsigned char)*s & 0xc0) == 0x80 || most-- > 0))
        s++;
    return (int)(s - text);
}

/* No blanks at the end of a line: somebody may copy it, or compare it. */
static unsigned shown_columns(const struct table *t, char *const *cells)
{
    unsigned n = t->columns;

    while (n > 0 && cells[n - 1][0] == '\0')
        n--;
    return n;
}

static void print_row(const struct table *t, FILE *out, unsigned width, const unsigned *widths,
                      char *const *cells)
{
    unsigned used = 0, columns = shown_columns(t, cells);

    for (unsigned i = 0; i < columns; i++) {
        unsigned have = columns_of(cells[i]);

        if (i > 0)
            fputs("  ", out);
        used += i > 0 ? 2 : 0;
        if (t->right[i])
            pad(out, widths[i] - have);
        if (i + 1 < columns || width == 0 || used + have <= width)
            fputs(cells[i], out);
        else if (used < width)
            fprintf(out, "%.*s", bytes_of(cells[i], width - used), cells[i]);
        if (!t->right[i] && i + 1 < columns)
            pad(out, widths[i] - have);
        used += widths[i];
    }
    fputc('\n', out);
}

void table_print(const struct table *t, FILE *out, unsigned width, const char *none)
{
    unsigned widths[TABLE_COLUMNS] = {0};

    if (t->columns == 0 || t->cell_ct < t->columns) {
        fprintf(out, "%s\n", none);
        return;
    }
    for (unsigned i = 0; i < t->columns; i++)
        widths[i] = columns_of(t->titles[i]);
    for (size_t i = 0; i < t->cell_ct; i++)
        if (columns_of(t->cells[i]) > widths[i % t->columns])
            widths[i % t->columns] = columns_of(t->cells[i]);
    print_row(t, out, width, widths, t->titles);
    for (size_t row = 0; (row + 1) * t->columns <= t->cell_ct; row++)
        print_row(t, out, width, widths, t->cells + row * t->columns);
}

unsigned terminal_width(void)
{
    struct winsize size;

    return isatty(STDOUT_FILENO) && ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 ? size.ws_col : 0;
}

const char *human_ms(int64_t ms, char buf[HUMAN_MAX])
{
    static const struct {
        int64_t least, unit;
        const char *name;
    } units[] = {{172800000, 86400000, "d"},
                 {7200000, 3600000, "h"},
                 {120000, 60000, "min"},
                 {10000, 1000, "s"}};

    for (size_t i = 0; i < ARRAY_SIZE(units); i++)
        if (ms >= units[i].least) {
            snprintf(buf, HUMAN_MAX, "%lld %s", (long long)(ms / units[i].unit), units[i].name);
            return buf;
        }
    if (ms >= 1000)
        snprintf(buf, HUMAN_MAX, "%.1f s", (double)(ms / 100) / 10);
    else
        snprintf(buf, HUMAN_MAX, "%lld ms", (long long)ms);
    return buf;
}

const char *human_bytes(int64_t bytes, char buf[HUMAN_MAX])
{
    static const char *const units[] = {"kB", "MB", "GB", "TB"};
    double value = (double)bytes;
    size_t i = 0;

    if (bytes < 1000) {
        snprintf(buf, HUMAN_MAX, "%lld B", (long long)bytes);
        return buf;
    }
    for (value /= 1000; value >= 1000 && i + 1 < ARRAY_SIZE(units); i++)
        value /= 1000;
    snprintf(buf, HUMAN_MAX, "%.1f %s", value, units[i]);
    return buf;
}

const char *human_ago(int64_t at_ms, char buf[HUMAN_MAX])
{
    if (at_ms == 0)
        return "-";
    return human_ms(clock_wall_ms() > at_ms ? clock_wall_ms() - at_ms : 0, buf);
}
