#include "client/show.h"

#include <stdio.h>

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
    printf("%-12s%s\n", name, text);
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
