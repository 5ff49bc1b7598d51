#include "services/api/out.h"

#include "base/name.h"

#include <string.h>

/* The length of a UTF-8 character of two and more bytes, and its code point; 0 when it is none. */
static size_t take_char(const char *s, size_t len, unsigned *ret)
{
    unsigned char c = (unsigned char)*s;
    size_t n = c >= 0xf0 ? 4 : c >= 0xe0 ? 3 : 2;

    if (n > len || !utf8_valid(s, n))
        return 0;
    *ret = c & (0x7fu >> n);
    for (size_t i = 1; i < n; i++)
        *ret = *ret << 6 | ((unsigned char)s[i] & 0x3f);
    return n;
}

static void out_escape(struct buf *b, unsigned cp)
{
    static const char names[] = "\bb\tt\nn\ff\rr\"\"\\\\";

    for (size_t i = 0; i + 1 < sizeof(names); i += 2) {
        if ((unsigned char)names[i] == cp) {
            buf_printf(b, "\\%c", names[i + 1]);
            return;
        }
    }
    if (cp >= 0x10000)
        buf_printf(b, "\\u%04x\\u%04x", 0xd800 + ((cp - 0x10000) >> 10),
                   0xdc00 + ((cp - 0x10000) & 0x3ff));
    else
        buf_printf(b, "\\u%04x", cp);
}

static bool is_plain(const char *s, size_t i)
{
    unsigned char c = (unsigned char)s[i];

    return c >= 0x20 && c < 0x7f && c != '"' && c != '\\' && !(c == '/' && i && s[i - 1] == '<');
}

void out_str(struct buf *b, const char *s, size_t len)
{
    size_t i = 0;

    buf_append(b, "\"", 1);
    while (i < len) {
        size_t run = i, n = 1;
        unsigned cp = (unsigned char)s[i];

        while (run < len && is_plain(s, run))
            run++;
        if (run > i) {
            buf_append(b, s + i, run - i);
            i = run;
            continue;
        }
        if (cp == '/' || cp == 0x7f) {
            buf_append(b, cp == '/' ? "\\/" : "\x7f", cp == '/' ? 2 : 1);
        } else {
            if (cp >= 0x80 && !(n = take_char(s + i, len - i, &cp))) {
                cp = 0xfffd;
                n = 1;
            }
            out_escape(b, cp);
        }
        i += n;
    }
    buf_append(b, "\"", 1);
}

void out_cstr(struct buf *b, const char *s)
{
    out_str(b, s, strlen(s));
}

void out_key(struct buf *b, const char *key, bool first)
{
    if (!first)
        buf_append(b, ", ", 2);
    out_cstr(b, key);
    buf_append(b, ": ", 2);
}

void out_status(struct buf *b, int status_id, const char *text)
{
    buf_printf(b, "{\"statusId\": %d, \"statusMsg\": ", status_id);
    out_cstr(b, text);
}
