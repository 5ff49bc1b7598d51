#include "services/api/range.h"

#include <stdbool.h>
#include <string.h>
#include <strings.h>

static bool take_number(const char **at, const char *end, uint64_t *ret)
{
    const char *s = *at;
    uint64_t n = 0;

    for (; s < end && *s >= '0' && *s <= '9'; s++) {
        if (n > (UINT64_MAX - 9) / 10)
            return false;
        n = n * 10 + (uint64_t)(*s - '0');
    }
    *ret = n;
    *at = s;
    return true;
}

int range_parse(const char *text, size_t len, uint64_t total, uint64_t *from, uint64_t *ret_len)
{
    static const char unit[] = "bytes=";
    const char *at = text + sizeof(unit) - 1, *end = text + len, *first = at, *second;
    uint64_t a, b;

    if (!text || len < sizeof(unit) || strncasecmp(text, unit, sizeof(unit) - 1) != 0 ||
        !take_number(&at, end, &a) || at == end || *at != '-')
        return 0;
    second = ++at;
    if (!take_number(&at, end, &b) || at != end)
        return 0;
    if (first + 1 == second) { /* the last b bytes */
        if (second == end)
            return 0;
        if (b == 0 || total == 0)
            return -1;
        *ret_len = b < total ? b : total;
        *from = total - *ret_len;
        return 1;
    }
    if (second == end)
        b = UINT64_MAX;
    if (b < a)
        return 0;
    if (a >= total)
        return -1;
    *from = a;
    *ret_len = (b < total ? b + 1 : total) - a;
    return 1;
}
