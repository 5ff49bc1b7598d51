#include "base/name.h"

#include <string.h>

static const char empty[] = "is empty";
static const char too_long[] = "is too long";
static const char bad_utf8[] = "is not valid UTF-8";
static const char control[] = "contains a control character";
static const char leading_dash[] = "begins with a dash";

/* The length of the UTF-8 character at s, 0 when there is none; its code point in *ret. Refuses
 * overlong forms, surrogates and what is beyond U+10FFFF. */
static size_t utf8_char(const char *s, size_t len, unsigned *ret)
{
    static const unsigned least[] = {0, 0, 0x80, 0x800, 0x10000};
    unsigned char c = (unsigned char)s[0];
    size_t n = c < 0x80 ? 1 : c < 0xc2 ? 0 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : c < 0xf5 ? 4 : 0;

    if (n == 0 || n > len)
        return 0;
    unsigned cp = n == 1 ? c : c & (0x7fu >> n);
    for (size_t i = 1; i < n; i++) {
        unsigned char t = (unsigned char)s[i];
        if ((t & 0xc0) != 0x80)
            return 0;
        cp = cp << 6 | (t & 0x3f);
    }
    if (cp < least[n] || cp > 0x10ffff || (cp >= 0xd800 && cp <= 0xdfff))
        return 0;
    *ret = cp;
    return n;
}

bool utf8_valid(const char *s, size_t len)
{
    unsigned cp;

    for (size_t i = 0, n; i < len; i += n) {
        n = utf8_char(s + i, len - i, &cp);
        if (n == 0)
            return false;
    }
    return true;
}

/* What all names share: something, not too much, UTF-8, no control character (C0, DEL, C1). */
static const char *check_text(const char *s, size_t len, size_t max)
{
    unsigned cp;

    if (len == 0)
        return empty;
    if (len > max)
        return too_long;
    for (size_t i = 0, n; i < len; i += n) {
        n = utf8_char(s + i, len - i, &cp);
        if (n == 0)
            return bad_utf8;
        if (cp < 0x20 || (cp >= 0x7f && cp < 0xa0))
            return control;
    }
    return NULL;
}

static const char *check_component(const char *s, size_t len, size_t max)
{
    const char *wrong = check_text(s, len, max);

    if (wrong)
        return wrong;
    if (memchr(s, '/', len))
        return "contains a slash";
    if (s[0] == '.' && (len == 1 || (len == 2 && s[1] == '.')))
        return "is a directory";
    if (s[0] == '-')
        return leading_dash;
    return NULL;
}

const char *name_check_file(const char *s, size_t len)
{
    return check_component(s, len, NAME_MAX_FILE);
}

const char *name_check_lab(const char *s, size_t len)
{
    return check_component(s, len, NAME_MAX_LAB);
}

const char *name_check_job(const char *s, size_t len)
{
    const char *wrong = check_text(s, len, NAME_MAX_JOB);

    if (!wrong && memchr(s, '|', len))
        wrong = "contains a vertical bar";
    return wrong;
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool is_lower(char c)
{
    return c >= 'a' && c <= 'z';
}

static bool is_alnum(char c)
{
    return is_digit(c) || is_lower(c) || (c >= 'A' && c <= 'Z');
}

/* A path component, a registry host or a tag of an image: it begins with a letter, a digit or '_'
 * and goes on with those and ". + -". So neither "..", nor an option, nor a hidden file. */
static bool image_word(const char *s, size_t len)
{
    if (len == 0 || (!is_alnum(s[0]) && s[0] != '_'))
        return false;
    for (size_t i = 1; i < len; i++)
        if (!is_alnum(s[i]) && !strchr("_.+-", s[i]))
            return false;
    return true;
}

static const char *check_image_digest(const char *s, size_t len)
{
    const char *colon = memchr(s, ':', len);
    size_t algo = colon ? (size_t)(colon - s) : 0;

    if (!image_word(s, algo))
        return "has a malformed digest";
    size_t hex = len - algo - 1;
    if (hex < 32)
        return "has a digest that is too short";
    for (size_t i = algo + 1; i < len; i++)
        if (!is_digit(s[i]) && !(s[i] >= 'a' && s[i] <= 'f'))
            return "has a digest that is not lower-case hexadecimal";
    return NULL;
}

static const char *check_port(const char *s, size_t len)
{
    bool digits = len > 0 && len <= 5;

    for (size_t i = 0; i < len && digits; i++)
        digits = is_digit(s[i]);
    return digits ? NULL : "has a malformed port";
}

/* Words with slashes between them; the first of several is a registry and may have a port. */
static const char *check_image_path(const char *s, size_t len)
{
    const char *end = s + len, *p = s;

    while (p <= end) {
        const char *stop = memchr(p, '/', (size_t)(end - p));
        if (!stop)
            stop = end;
        size_t word = (size_t)(stop - p);
        const char *port = p == s && stop < end ? memchr(p, ':', word) : NULL;
        if (port) {
            const char *wrong = check_port(port + 1, (size_t)(stop - port - 1));
            if (wrong)
                return wrong;
            word = (size_t)(port - p);
        }
        if (!image_word(p, word))
            return "is not an image name";
        p = stop + 1;
    }
    return NULL;
}

const char *name_check_image(const char *s, size_t len)
{
    const char *wrong = check_text(s, len, NAME_MAX_IMAGE);

    if (wrong)
        return wrong;
    if (s[0] == '-')
        return leading_dash;
    const char *at = memchr(s, '@', len);
    if (at) {
        size_t head = (size_t)(at - s);
        wrong = check_image_digest(at + 1, len - head - 1);
        if (wrong)
            return wrong;
        len = head;
    }

    const char *slash = len ? memrchr(s, '/', len) : NULL;
    const char *last = slash ? slash + 1 : s;
    const char *colon = memchr(last, ':', (size_t)(s + len - last));
    if (colon) {
        size_t tag = (size_t)(s + len - colon - 1);
        if (tag > 128 || !image_word(colon + 1, tag))
            return "has a malformed tag";
        len = (size_t)(colon - s);
    }

    return check_image_path(s, len);
}

const char *name_check_label(const char *s, size_t len)
{
    if (len == 0)
        return empty;
    if (len > NAME_MAX_LABEL)
        return too_long;
    if (s[0] == '-')
        return leading_dash;
    for (size_t i = 0; i < len; i++)
        if (!is_lower(s[i]) && !is_digit(s[i]) && (s[i] == '\0' || !strchr("_.=-", s[i])))
            return "contains something other than a-z, 0-9, '_', '.', '=' and '-'";
    return NULL;
}

const char *name_check_tenant(const char *s, size_t len)
{
    if (len == 0)
        return empty;
    if (len > NAME_MAX_TENANT)
        return too_long;
    for (size_t i = 0; i < len; i++)
        if (!is_lower(s[i]) && !is_digit(s[i]) && s[i] != '_')
            return "contains something other than a-z, 0-9 and '_'";
    return NULL;
}

bool key_equal(const char *a, size_t a_len, const char *b, size_t b_len)
{
    /* volatile, so that no compiler turns the loop into an early exit */
    volatile unsigned char differ = a_len != b_len;

    for (size_t i = 0; i < b_len; i++)
        differ |= (unsigned char)((i < a_len ? a[i] : ~b[i]) ^ b[i]);
    return differ == 0;
}
