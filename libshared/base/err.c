#include "base/err.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* A message may quote what came from outside; one line is what every reader of it counts on. A cut
 * inside a character is undone, since the text may end up in JSON. */
static void tidy(char *msg, size_t size)
{
    size_t len = strlen(msg);

    for (size_t i = 0; i < len; i++)
        if ((unsigned char)msg[i] < 0x20 || msg[i] == 0x7f)
            msg[i] = ' ';
    if (len + 1 < size)
        return;
    size_t start = len;
    while (start > 0 && ((unsigned char)msg[start - 1] & 0xc0) == 0x80)
        start--;
    if (start == 0)
        return;
    unsigned char lead = (unsigned char)msg[start - 1];
    size_t need = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : lead >= 0xc0 ? 2 : 1;
    if (len - (start - 1) < need)
        msg[start - 1] = '\0';
}

static void fill(struct error *err, enum err_class class, int code, const char *msg)
{
    err->code = code;
    err->class = class;
    snprintf(err->msg, sizeof(err->msg), "%s", msg);
    tidy(err->msg, sizeof(err->msg));
}

int err_set(struct error *err, enum err_class class, int code, const char *fmt, ...)
{
    int saved = errno;
    char msg[sizeof(err->msg)];
    va_list ap;

    if (err) {
        /* by way of a copy: an argument may be err->msg itself */
        va_start(ap, fmt);
        vsnprintf(msg, sizeof(msg), fmt, ap);
        va_end(ap);
        fill(err, class, code, msg);
    }
    errno = saved;
    return -code;
}

int err_set_errno(struct error *err, enum err_class class, int code, const char *fmt, ...)
{
    int saved = errno;
    char msg[sizeof(err->msg)], reason[128];
    va_list ap;

    if (err) {
        va_start(ap, fmt);
        vsnprintf(msg, sizeof(msg), fmt, ap);
        va_end(ap);
        errno = code; /* strerror_r differs between C libraries, %m does not */
        snprintf(reason, sizeof(reason), "%m");
        size_t len = strlen(msg), want = strlen(reason) + 2;
        /* the reason is worth more than the tail of the context */
        if (len + want + 1 > sizeof(msg))
            len = sizeof(msg) - want - 1;
        snprintf(msg + len, sizeof(msg) - len, ": %s", reason);
        fill(err, class, code, msg);
    }
    errno = saved;
    return -code;
}

/* snprintf's cut, without the compiler's warning that there may be one: here it is wanted. */
static void put_tail(char *msg, size_t size, const char *text)
{
    size_t len = strlen(msg), n = strnlen(text, size - 1 - len);

    memcpy(msg + len, text, n);
    msg[len + n] = '\0';
}

int err_wrap(struct error *err, const char *fmt, ...)
{
    char inner[sizeof(err->msg)], msg[sizeof(err->msg)];
    va_list ap;

    if (!err)
        return -EIO;
    memcpy(inner, err->msg, sizeof(inner));
    va_start(ap, fmt);
    vsnprintf(msg, sizeof(msg), fmt, ap);
    va_end(ap);
    put_tail(msg, sizeof(msg), ": ");
    put_tail(msg, sizeof(msg), inner);
    memcpy(err->msg, msg, sizeof(msg));
    tidy(err->msg, sizeof(err->msg));
    /* a caller that wraps what was never set must still see a failure */
    if (err->code <= 0) {
        err->code = EIO;
        err->class = ERR_BUG;
    }
    return -err->code;
}

const char *err_class_name(enum err_class class)
{
    switch (class) {
    case ERR_TEMPORARY:
        return "temporary";
    case ERR_PERMANENT:
        return "permanent";
    case ERR_REFUSED:
        return "refused";
    case ERR_BUG:
        return "bug";
    case ERR_NONE:
        break;
    }
    return "none";
}
