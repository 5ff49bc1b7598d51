#include "link.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int set_nonblock(int fd)
{
    int flags = fcntl(fd, F_GETFL);

    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
        return -errno;
    return 0;
}

int link_init(struct link *l, int in_fd, int out_fd)
{
    int rc;

    memset(l, 0, sizeof(*l));
    l->in_fd = in_fd;
    l->out_fd = out_fd;
    l->in = malloc(LINK_IN_CAP);
    l->out = malloc(LINK_OUT_CAP);
    if (!l->in || !l->out)
        return -ENOMEM;
    rc = set_nonblock(in_fd);
    return rc < 0 ? rc : set_nonblock(out_fd);
}

void link_done(struct link *l)
{
    free(l->in);
    free(l->out);
    close(l->in_fd);
    close(l->out_fd);
}

static void drop_taken(struct link *l)
{
    memmove(l->in, l->in + l->in_taken, l->in_len - l->in_taken);
    l->in_len -= l->in_taken;
    l->in_taken = 0;
}

int link_read(struct link *l)
{
    ssize_t n;

    drop_taken(l);
    if (l->in_len == LINK_IN_CAP) /* cannot be: a whole frame would have been taken from it */
        return -EAGAIN;
    do
        n = read(l->in_fd, l->in + l->in_len, LINK_IN_CAP - l->in_len);
    while (n < 0 && errno == EINTR);
    if (n < 0 && errno == EAGAIN)
        return -EAGAIN;
    if (n <= 0) {
        l->in_eof = true;
        return 0;
    }
    l->in_len += (size_t)n;
    return 1;
}

int link_next(struct link *l, enum frame_type *ret_type, const uint8_t **ret_data,
              uint32_t *ret_len)
{
    const uint8_t *next = l->in + l->in_taken;
    int rc = frame_peek(next, l->in_len - l->in_taken, ret_type, ret_len);

    if (rc <= 0)
        return rc;
    *ret_data = next + FRAME_HEAD;
    l->in_taken += FRAME_HEAD + *ret_len;
    return 1;
}

size_t link_room(const struct link *l)
{
    size_t used = l->out_len + FRAME_HEAD + LINK_OUT_RESERVE;
    size_t room = used < LINK_OUT_CAP ? LINK_OUT_CAP - used : 0;

    return room < FRAME_MAX ? room : FRAME_MAX;
}

int link_send(struct link *l, enum frame_type type, const void *data, size_t len)
{
    if (len > FRAME_MAX || LINK_OUT_CAP - l->out_len < FRAME_HEAD + len)
        return -ENOBUFS;
    frame_head(l->out + l->out_len, type, (uint32_t)len);
    if (len > 0)
        memcpy(l->out + l->out_len + FRAME_HEAD, data, len);
    l->out_len += FRAME_HEAD + len;
    return 0;
}

int link_send_text(struct link *l, enum frame_type type, const char *text)
{
    return link_send(l, type, text, strlen(text));
}

void link_flush(struct link *l)
{
    size_t done = 0;

    while (done < l->out_len) {
        ssize_t n = write(l->out_fd, l->out + done, l->out_len - done);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno != EAGAIN) {
            l->in_eof = true;
            done = l->out_len; /* nobody will read it */
        }
        if (n <= 0)
            break;
        done += (size_t)n;
    }
    memmove(l->out, l->out + done, l->out_len - done);
    l->out_len -= done;
}
