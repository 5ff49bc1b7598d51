#include "client/show.h"

#include <stdio.h>

#define NAME_WIDTH 12

const char *show_text(const json_t *object, const char *member)
{
    const char *text = json_string_value(json_object_get(object, member));

    return text != NULL ? text : "-";
}

int64_t show_number(const json_t *object, const char *member)
{
    return json_integer_value(json_object_get(object, member));
}

bool show_flag(const json_t *object, const char *member)
{
    return json_is_true(json_object_get(object, member));
}

void show_clean(char *text, size_t size, const char *fmt, va_list ap)
{
    vsnprintf(text, size, fmt, ap);
    for (char *s = text; *s != '\0'; s++)
        if ((unsigned char)*s < ' ' || *s == 0x7f)
            *s = '?';
}

void show_line(const char *name, const char *fmt, ...)
{
    char text[2048];
    va_list ap;

    va_start(ap, fmt);
    show_clean(text, sizeof(text), fmt, ap);
    va_end(ap);
    if (text[0] != '\0')
        printf("%-*s%s\n", NAME_WIDTH, name, text);
    else
        puts(name);
}

/* 15 digits are what a double keeps of a decimal number; with jansson's own 17 a 0.2 becomes
 * 0.20000000000000001. */
void show_json(const json_t *answer)
{
    json_dumpf(answer, stdout, JSON_INDENT(2) | JSON_ENSURE_ASCII | JSON_REAL_PRECISION(15));
    putchar('\n');
}

const char *show_s(int64_t count)
{
    return count == 1 ? "" : "s";
}

const char *show_words(const json_t *words, struct buf *out)
{
    size_t i;
    json_t *w;

    buf_clear(out);
    json_array_foreach(words, i, w)
        buf_printf(out, "%s%s", i > 0 ? ", " : "", json_string_value(w));
    return out->len > 0 ? out->data : "-";
}
