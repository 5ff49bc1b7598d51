#include "untar.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Where the fields of a header block are (POSIX ustar). */
enum {
    AT_NAME = 0,
    AT_MODE = 100,
    AT_SIZE = 124,
    AT_CHECKSUM = 148,
    AT_TYPE = 156,
    AT_MAGIC = 257,
    AT_PREFIX = 345,
};

enum {
    LEN_NAME = 100,
    LEN_MODE = 8,
    LEN_SIZE = 12,
    LEN_CHECKSUM = 8,
    LEN_PREFIX = 155,
};

void untar_init(struct untar *t, const struct untar_sink *sink)
{
    memset(t, 0, sizeof(*t));
    t->sink = *sink;
}

void untar_done(struct untar *t)
{
    free(t->extension);
    t->extension = NULL;
}

/* Octal digits between optional blanks, ended by a blank, a NUL or the field's end; or GNU's
 * base-256, marked by the top bit. */
static int parse_number(const uint8_t *field, size_t len, uint64_t *ret)
{
    uint64_t n = 0;
    size_t i = 0;

    if (field[0] & 0x80) {
        if (field[0] != 0x80) /* negative, or larger than 64 bits can say */
            return -EINVAL;
        for (i = 1; i < len; i++) {
            if (n >> 56)
                return -EINVAL;
            n = n << 8 | field[i];
        }
        *ret = n;
        return 0;
    }
    while (i < len && field[i] == ' ')
        i++;
    for (; i < len && field[i] >= '0' && field[i] <= '7'; i++)
        n = n << 3 | (uint64_t)(field[i] - '0'); /* at most 12 digits: 36 bits */
    if (i < len && field[i] != ' ' && field[i] != '\0')
        return -EINVAL;
    *ret = n;
    return 0;
}

static bool checksum_ok(const uint8_t *block)
{
    uint64_t told;
    uint64_t sum = 0;

    if (parse_number(block + AT_CHECKSUM, LEN_CHECKSUM, &told) < 0)
        return false;
    for (size_t i = 0; i < UNTAR_BLOCK; i++)
        sum += i >= AT_CHECKSUM && i < AT_CHECKSUM + LEN_CHECKSUM ? ' ' : block[i];
    return sum == told;
}

static bool is_zero(const uint8_t *block)
{
    for (size_t i = 0; i < UNTAR_BLOCK; i++)
        if (block[i])
            return false;
    return true;
}

/* The name of the header itself: prefix "/" name in POSIX's format, name alone in GNU's and V7's.
 */
static void header_path(const uint8_t *block, char *out)
{
    const char *name = (const char *)block + AT_NAME;
    const char *prefix = (const char *)block + AT_PREFIX;
    size_t len = 0;

    if (memcmp(block + AT_MAGIC, "ustar\0", 6) == 0 && prefix[0] != '\0') {
        len = strnlen(prefix, LEN_PREFIX);
        memcpy(out, prefix, len);
        out[len++] = '/';
    }
    memcpy(out + len, name, strnlen(name, LEN_NAME));
    out[len + strnlen(name, LEN_NAME)] = '\0';
}

/* Cleans a name in place: drops empty and "." components. -1 for what must not get near a file
 * system. An empty result is the job's directory itself. */
static int clean_path(char *path, struct why *why)
{
    char *out = path;
    const char *in = path;
    unsigned depth = 0;

    if (path[0] == '/')
        return why_set(why, "tar: absolute name");
    for (const char *p = path; *p != '\0'; p++)
        if ((unsigned char)*p < 0x20 || *p == 0x7f)
            return why_set(why, "tar: control character in a name");
    while (*in != '\0') {
        size_t len = strcspn(in, "/");

        if (len == 2 && in[0] == '.' && in[1] == '.')
            return why_set(why, "tar: \"..\" in a name");
        if (len > UNTAR_NAME_MAX)
            return why_set(why, "tar: name too long");
        if (len > 0 && !(len == 1 && in[0] == '.')) {
            if (++depth > UNTAR_DEPTH_MAX)
                return why_set(why, "tar: directories too deep");
            if (out != path)
                *out++ = '/';
            memmove(out, in, len);
            out += len;
        }
        in += len;
        if (*in == '/') /* out never passes in: it has dropped at least as many slashes */
            in++;
    }
    *out = '\0';
    return 0;
}

/* Goes on to `size` bytes in the given state and then to the next header. */
static void enter(struct untar *t, enum untar_state state, uint64_t size)
{
    t->state = state;
    t->left = size;
    t->padding = (unsigned)(-size % UNTAR_BLOCK);
}

static int begin_extension(struct untar *t, char type, uint64_t size, struct why *why)
{
    if (size > UNTAR_EXTENSION_MAX)
        return why_set(why, "tar: extended header too long");
    if (!t->extension && !(t->extension = malloc(UNTAR_EXTENSION_MAX + 1)))
        return why_set(why, "out of memory");
    t->extension_type = type;
    t->extension_len = 0;
    enter(t, UNTAR_EXTENSION, size);
    return 0;
}

static int begin_entry(struct untar *t, bool is_dir, unsigned mode, uint64_t size, struct why *why)
{
    char path[UNTAR_PATH_MAX];
    size_t len;

    if (t->path[0] != '\0')
        memcpy(path, t->path, sizeof(path));
    else
        header_path(t->block, path);
    if (t->has_size)
        size = t->size;
    t->path[0] = '\0';
    t->has_size = false;

    len = strlen(path);
    if (len > 0 && path[len - 1] == '/') /* how V7 marks a directory */
        is_dir = true;
    if (size > UNTAR_SIZE_MAX)
        return why_set(why, "tar: file too large");
    if (++t->entry_ct > UNTAR_ENTRIES_MAX)
        return why_set(why, "tar: too many entries");
    if (clean_path(path, why) < 0)
        return -1;
    if (is_dir) {
        if (path[0] != '\0' && t->sink.dir(t->sink.arg, path, mode, why) < 0)
            return -1;
        enter(t, UNTAR_SKIP, size);
        return 0;
    }
    if (path[0] == '\0')
        return why_set(why, "tar: file without a name");
    if (t->sink.file(t->sink.arg, path, mode, size, why) < 0)
        return -1;
    enter(t, UNTAR_FILE, size);
    return 0;
}

static int refuse_type(char type, struct why *why)
{
    if (strchr("12K", type))
        return why_set(why, "tar: links are not allowed");
    if (strchr("346", type))
        return why_set(why, "tar: devices and pipes are not allowed");
    return why_set(why, "tar: entry of unknown type 0x%02x", (unsigned char)type);
}

static int head_complete(struct untar *t, struct why *why)
{
    uint64_t size, mode;
    char type = (char)t->block[AT_TYPE];

    t->block_len = 0;
    if (is_zero(t->block)) {
        if (t->path[0] != '\0' || t->has_size)
            return why_set(why, "tar: extended header without an entry");
        t->state = UNTAR_END;
        return 0;
    }
    if (!checksum_ok(t->block))
        return why_set(why, "tar: bad header checksum");
    if (parse_number(t->block + AT_SIZE, LEN_SIZE, &size) < 0 ||
        parse_number(t->block + AT_MODE, LEN_MODE, &mode) < 0)
        return why_set(why, "tar: bad number in a header");

    switch (type) {
    case '0':
    case '\0':
    case '7': /* "contiguous": a regular file to everyone */
        return begin_entry(t, false, mode & 0777, size, why);
    case '5':
        return begin_entry(t, true, mode & 0777, size, why);
    case 'L':
    case 'x':
        return begin_extension(t, type, size, why);
    case 'g': /* defaults for all entries: comments and times in practice, nothing that we use */
        if (size > UNTAR_EXTENSION_MAX)
            return why_set(why, "tar: extended header too long");
        enter(t, UNTAR_SKIP, size);
        return 0;
    default:
        return refuse_type(type, why);
    }
}

static int set_path(struct untar *t, const char *value, size_t len, struct why *why)
{
    if (len == 0 || len >= sizeof(t->path) || memchr(value, '\0', len))
        return why_set(why, "tar: bad long name");
    memcpy(t->path, value, len);
    t->path[len] = '\0';
    return 0;
}

static int set_size(struct untar *t, const char *value, size_t len, struct why *why)
{
    uint64_t n = 0;

    if (len == 0 || len > 15) /* so that n cannot overflow */
        return why_set(why, "tar: bad size record");
    for (size_t i = 0; i < len; i++) {
        if (value[i] < '0' || value[i] > '9')
            return why_set(why, "tar: bad size record");
        n = n * 10 + (uint64_t)(value[i] - '0');
    }
    t->has_size = true;
    t->size = n;
    return 0;
}

/* One pax record, "key=value". What a tar may say beyond name and size does not matter to a job,
 * but a sparse map changes what the data means. */
static int pax_record(struct untar *t, const char *record, size_t len, struct why *why)
{
    const char *equals = memchr(record, '=', len);
    size_t key_len, value_len;

    if (!equals)
        return why_set(why, "tar: bad pax record");
    key_len = (size_t)(equals - record);
    value_len = len - key_len - 1;
    if (key_len == 4 && memcmp(record, "path", 4) == 0)
        return set_path(t, equals + 1, value_len, why);
    if (key_len == 4 && memcmp(record, "size", 4) == 0)
        return set_size(t, equals + 1, value_len, why);
    if (key_len >= 10 && memcmp(record, "GNU.sparse", 10) == 0)
        return why_set(why, "tar: sparse files are not allowed");
    return 0;
}

/* "LEN key=value\n"..., where LEN counts the whole record with itself. */
static int pax_records(struct untar *t, struct why *why)
{
    const char *p = t->extension;
    size_t left = t->extension_len;

    while (left > 0) {
        size_t len = 0, digits = 0;

        while (digits < left && digits < 6 && p[digits] >= '0' && p[digits] <= '9')
            len = len * 10 + (size_t)(p[digits++] - '0');
        if (digits == 0 || len > left || len < digits + 3 || p[digits] != ' ' || p[len - 1] != '\n')
            return why_set(why, "tar: bad pax record");
        if (pax_record(t, p + digits + 1, len - digits - 2, why) < 0)
            return -1;
        p += len;
        left -= len;
    }
    return 0;
}

static int extension_complete(struct untar *t, struct why *why)
{
    if (t->extension_type == 'x')
        return pax_records(t, why);
    /* GNU's long name counts its NUL. */
    t->extension[t->extension_len] = '\0';
    return set_path(t, t->extension, strlen(t->extension), why);
}

/* The present data is complete. */
static int data_complete(struct untar *t, struct why *why)
{
    enum untar_state was = t->state;

    if (t->padding > 0 && was != UNTAR_SKIP) {
        t->state = UNTAR_SKIP;
        t->left = t->padding;
    } else if (t->padding > 0) {
        t->left = t->padding;
    } else {
        t->state = UNTAR_HEAD;
    }
    t->padding = 0;
    if (was == UNTAR_FILE)
        return t->sink.file_end(t->sink.arg, why);
    if (was == UNTAR_EXTENSION)
        return extension_complete(t, why);
    return 0;
}

static int take_data(struct untar *t, const uint8_t *data, size_t len, struct why *why)
{
    if (t->state == UNTAR_FILE)
        return t->sink.data(t->sink.arg, data, len, why);
    if (t->state == UNTAR_EXTENSION) {
        memcpy(t->extension + t->extension_len, data, len);
        t->extension_len += len;
    }
    return 0;
}

int untar_feed(struct untar *t, const void *data, size_t len, struct why *why)
{
    const uint8_t *p = data;

    for (;;) {
        size_t n;

        if (t->state == UNTAR_END)
            return 0;
        /* Before asking for more bytes, since an empty file is complete without any. */
        if (t->state != UNTAR_HEAD && t->left == 0) {
            if (data_complete(t, why) < 0)
                return -1;
            continue;
        }
        if (len == 0)
            return 0;
        if (t->state == UNTAR_HEAD) {
            n = UNTAR_BLOCK - t->block_len < len ? UNTAR_BLOCK - t->block_len : len;
            memcpy(t->block + t->block_len, p, n);
            t->block_len += n;
            if (t->block_len == UNTAR_BLOCK && head_complete(t, why) < 0)
                return -1;
        } else {
            n = t->left < len ? (size_t)t->left : len;
            t->left -= n;
            if (take_data(t, p, n, why) < 0)
                return -1;
        }
        p += n;
        len -= n;
    }
}

int untar_finish(const struct untar *t, struct why *why)
{
    if (t->state == UNTAR_END)
        return 0;
    if (t->state != UNTAR_HEAD || t->block_len > 0 || t->path[0] != '\0' || t->has_size)
        return why_set(why, "tar: the stream is cut short");
    return 0;
}
