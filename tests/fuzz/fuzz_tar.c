/* The autodriver's tar reader against any bytes: nothing that it lets through may be a name that
 * leads out of the directory, and what it tells must not depend on how the stream was cut. */

#include "autodriver/untar.c"
#include "autodriver/util.c"

#include <stdlib.h>

struct seen {
    uint64_t hash; /* of all that the sink was told, in order */
    uint64_t file_left;
    bool in_file;
};

static void must(bool condition)
{
    if (!condition)
        abort();
}

static void mix(struct seen *s, const void *data, size_t len)
{
    const uint8_t *p = data;

    for (size_t i = 0; i < len; i++)
        s->hash = (s->hash ^ p[i]) * 1099511628211ULL;
}

static void check_path(const char *path)
{
    size_t len = strlen(path);

    must(len > 0 && len < UNTAR_PATH_MAX && path[0] != '/' && path[len - 1] != '/');
    while (*path != '\0') {
        len = strcspn(path, "/");
        must(len > 0 && len <= UNTAR_NAME_MAX);
        must(!(len == 1 && path[0] == '.') && !(len == 2 && path[0] == '.' && path[1] == '.'));
        path += len + (path[len] == '/');
    }
}

static int on_dir(void *arg, const char *path, unsigned mode, struct why *why)
{
    struct seen *s = arg;

    (void)why;
    must(!s->in_file && (mode & ~0777U) == 0);
    check_path(path);
    mix(s, "d", 1);
    mix(s, path, strlen(path) + 1);
    mix(s, &mode, sizeof(mode));
    return 0;
}

static int on_file(void *arg, const char *path, unsigned mode, uint64_t size, struct why *why)
{
    struct seen *s = arg;

    (void)why;
    must(!s->in_file && (mode & ~0777U) == 0 && size <= UNTAR_SIZE_MAX);
    check_path(path);
    s->in_file = true;
    s->file_left = size;
    mix(s, "f", 1);
    mix(s, path, strlen(path) + 1);
    mix(s, &mode, sizeof(mode));
    mix(s, &size, sizeof(size));
    return 0;
}

static int on_data(void *arg, const void *data, size_t len, struct why *why)
{
    struct seen *s = arg;

    (void)why;
    must(s->in_file && len > 0 && len <= s->file_left);
    s->file_left -= len;
    mix(s, data, len);
    return 0;
}

static int on_file_end(void *arg, struct why *why)
{
    struct seen *s = arg;

    (void)why;
    must(s->in_file && s->file_left == 0);
    s->in_file = false;
    mix(s, "e", 1);
    return 0;
}

/* Feeds in pieces of `step` bytes; what came out of it, errors included, as a hash. */
static uint64_t feed(const uint8_t *data, size_t size, size_t step)
{
    struct seen seen = {.hash = 14695981039346656037ULL};
    const struct untar_sink sink = {
        .arg = &seen, .dir = on_dir, .file = on_file, .data = on_data, .file_end = on_file_end};
    struct untar t;
    struct why why = {""};
    int rc = 0;

    untar_init(&t, &sink);
    for (size_t at = 0; at < size && rc == 0; at += step)
        rc = untar_feed(&t, data + at, size - at < step ? size - at : step, &why);
    if (rc == 0)
        rc = untar_finish(&t, &why);
    must(rc == 0 || (rc == -1 && why.text[0] != '\0'));
    untar_done(&t);
    mix(&seen, why.text, strlen(why.text));
    return seen.hash;
}

/* Makes the checksum of whatever looks like a header right, or hardly a mutation got past it. */
static void mend(uint8_t *data, size_t size)
{
    for (; size >= UNTAR_BLOCK; data += UNTAR_BLOCK, size -= UNTAR_BLOCK) {
        unsigned sum = 0;

        if (memcmp(data + AT_MAGIC, "ustar", 5) != 0)
            continue;
        memset(data + AT_CHECKSUM, ' ', LEN_CHECKSUM);
        for (size_t i = 0; i < UNTAR_BLOCK; i++)
            sum += data[i];
        for (size_t i = 6; i-- > 0; sum >>= 3)
            data[AT_CHECKSUM + i] = (uint8_t)('0' + (sum & 7));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The first byte says how to cut, and whether to mend. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t *copy;
    uint64_t whole;
    size_t step;
    bool mending;

    if (size < 2)
        return 0;
    step = (size_t)(data[0] >> 1) * 5 + 1;
    mending = data[0] & 1;
    size--;
    copy = malloc(size);
    must(copy != NULL);
    memcpy(copy, data + 1, size);
    if (mending)
        mend(copy, size);
    whole = feed(copy, size, size);
    must(whole == feed(copy, size, step));
    free(copy);
    return 0;
}
