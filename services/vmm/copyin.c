#include "copyin.h"

#include "base/crashpoint.h"
#include "base/mem.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* ---- tar ---- */

static void seal(uint8_t *block)
{
    unsigned sum = 0;
    memset(block + 148, ' ', 8);
    for (size_t i = 0; i < TAR_BLOCK; i++)
        sum += block[i];
    char text[16];
    snprintf(text, sizeof(text), "%06o", sum);
    memcpy(block + 148, text, 7); /* six digits, NUL, and a blank stays */
}

static void put_octal(uint8_t *at, int width, uint64_t value)
{
    char text[32];
    snprintf(text, sizeof(text), "%0*llo", width - 1, (unsigned long long)value);
    memcpy(at, text, (size_t)width);
}

static void fill_header(uint8_t *block, const char *name, size_t name_len, uint64_t size,
                        unsigned mode, int64_t mtime_s, char type)
{
    memset(block, 0, TAR_BLOCK);
    memcpy(block, name, name_len < 100 ? name_len : 100);
    put_octal(block + 100, 8, mode);
    put_octal(block + 108, 8, 0);
    put_octal(block + 116, 8, 0);
    put_octal(block + 124, 12, size);
    put_octal(block + 136, 12, mtime_s > 0 ? (uint64_t)mtime_s : 0);
    block[156] = (uint8_t)type;
    memcpy(block + 257, "ustar  ", 8); /* GNU's magic: its long names may follow */
    seal(block);
}

int copyin_tar_header(uint8_t out[4 * TAR_BLOCK], const char *name, uint64_t size, unsigned mode,
                      int64_t mtime_s)
{
    size_t len = strlen(name);
    int at = 0;
    if (size >= (uint64_t)1 << 33 || (uint64_t)(mtime_s > 0 ? mtime_s : 0) >= (uint64_t)1 << 33)
        return -EFBIG; /* eleven octal digits */
    if (len + 1 > TAR_LONGNAME_MAX)
        return -ENAMETOOLONG;
    if (len > 100) {
        fill_header(out, "././@LongLink", 13, len + 1, 0644, 0, 'L');
        memset(out + TAR_BLOCK, 0, 2 * TAR_BLOCK);
        memcpy(out + TAR_BLOCK, name, len);
        at = len + 1 > TAR_BLOCK ? 3 * TAR_BLOCK : 2 * TAR_BLOCK;
    }
    fill_header(out + at, name, len, size, mode, mtime_s, '0');
    return at + TAR_BLOCK;
}

/* ---- streaming ---- */

struct stream {
    struct pipe *p;
    int64_t deadline;
    size_t len;
    uint8_t data[FRAME_MAX];
};

static int stream_flush(struct stream *s, struct error *err)
{
    if (s->len == 0)
        return 0;
    int rc = pipe_send(s->p, FRAME_TAR, s->data, (uint32_t)s->len, s->deadline, err);
    s->len = 0;
    CRASHPOINT("vmm", "files", "after");
    return rc;
}

static int stream_put(struct stream *s, const uint8_t *data, size_t len, struct error *err)
{
    while (len > 0) {
        size_t n = sizeof(s->data) - s->len;
        if (n > len)
            n = len;
        memcpy(s->data + s->len, data, n);
        s->len += n;
        data += n;
        len -= n;
        int rc = s->len == sizeof(s->data) ? stream_flush(s, err) : 0;
        if (rc < 0)
            return rc;
    }
    return 0;
}

static unsigned mode_of(int fd)
{
    char head[4];
    ssize_t n = pread(fd, head, sizeof(head), 0);
    bool program =
        (n >= 2 && memcmp(head, "#!", 2) == 0) || (n == 4 && memcmp(head, "\177ELF", 4) == 0);
    return program ? 0755 : 0644;
}

static int get(struct store *store, const struct job_file *f, int *ret_fd, uint64_t *ret_size,
               struct error *err)
{
    int rc = store_get(store, f->sha256, ret_fd, ret_size, err);
    if (rc < 0)
        return err_wrap(err, "input file %s", f->local);
    return 0;
}

static int send_file(struct stream *s, struct store *store, const struct job *job,
                     const struct job_file *f, struct error *err)
{
    static const uint8_t zeros[TAR_BLOCK];
    uint8_t block[4 * TAR_BLOCK], chunk[16384];
    cleanup_close int fd = -1;
    uint64_t size;
    int rc = get(store, f, &fd, &size, err);
    if (rc < 0)
        return rc;
    int len = copyin_tar_header(block, f->dest, size, mode_of(fd), job->accepted_ms / 1000);
    if (len < 0)
        return err_set_errno(err, ERR_REFUSED, -len, "input file %s", f->dest);
    rc = stream_put(s, block, (size_t)len, err);
    uint64_t left = size;
    while (rc == 0 && left > 0) {
        ssize_t n = read(fd, chunk, left < sizeof(chunk) ? (size_t)left : sizeof(chunk));
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return err_set_errno(err, ERR_TEMPORARY, n < 0 ? errno : EIO,
                                 "reading input file %s from the store", f->local);
        rc = stream_put(s, chunk, (size_t)n, err);
        left -= (uint64_t)n;
    }
    if (rc == 0 && size % TAR_BLOCK)
        rc = stream_put(s, zeros, TAR_BLOCK - size % TAR_BLOCK, err);
    return rc;
}

int copyin_prefetch(struct store *store, const struct job *job, struct error *err)
{
    for (size_t i = 0; i < job->file_ct; i++) {
        cleanup_close int fd = -1;
        uint64_t size;
        int rc = get(store, &job->files[i], &fd, &size, err);
        if (rc < 0)
            return rc;
    }
    return 0;
}

int copyin_send(struct pipe *p, struct store *store, const struct job *job, int64_t deadline,
                struct error *err)
{
    static const uint8_t end[2 * TAR_BLOCK];
    cleanup_free struct stream *s = xmalloc(sizeof(*s));
    s->p = p;
    s->deadline = deadline;
    s->len = 0;
    int rc = 0;
    for (size_t i = 0; i < job->file_ct && rc == 0; i++)
        rc = send_file(s, store, job, &job->files[i], err);
    if (rc == 0)
        rc = stream_put(s, end, sizeof(end), err);
    if (rc == 0)
        rc = stream_flush(s, err);
    if (rc == 0)
        rc = pipe_send(p, FRAME_TAR_END, NULL, 0, deadline, err);
    return rc;
}
