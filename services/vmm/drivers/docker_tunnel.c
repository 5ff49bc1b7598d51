#include "docker_tunnel.h"

#include "base/clock.h"
#include "base/mem.h"
#include "ssh_command.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define GREETINGS_MAX 200 /* lines that a login shell says before ours */
#define WORD          "milonga"

struct tunnel {
    const struct config *cfg;
    const struct config_docker_host *spec;
    char *url;
    char *socket; /* of ours; NULL where the engine's own is used */
    bool open;
    struct relay *relay;    /* tcp */
    struct ssh_child child; /* ssh */
    char *said;             /* by it, on stderr */
};

struct tunnel *tunnel_new(const struct config *cfg, const struct config_docker_host *spec,
                          const char *dir)
{
    struct tunnel *t = xcalloc(1, sizeof(*t));

    t->cfg = cfg;
    t->spec = spec;
    t->child = (struct ssh_child)SSH_CHILD_INIT;
    if (strcmp(spec->scheme, "unix") != 0)
        t->socket = xasprintf("%s/%s", dir, spec->at.name);
    t->url = xasprintf("unix://%s", t->socket ? t->socket : spec->socket);
    return t;
}

void tunnel_free(struct tunnel *t)
{
    if (!t)
        return;
    free(t->socket);
    free(t->url);
    free(t->said);
    free(t);
}

const char *tunnel_url(const struct tunnel *t)
{
    return t->url;
}

/* What ssh said is mostly the reason itself. */
static int explain(struct tunnel *t, int r, struct error *err)
{
    ssh_hear(&t->said, t->child.err_fd);
    cleanup_free char *said = ssh_last_words(t->said);

    if (said[0] && r != -ECANCELED)
        err_set(err, ERR_TEMPORARY, -r, "%.400s", said);
    else
        err_set_errno(err, ERR_TEMPORARY, -r, "ssh to %s", t->spec->at.address);
    return r;
}

/* An echo over a session of the same connection: it is logged in, and the socket is there, which
 * ssh makes before. */
static int open_ssh(struct tunnel *t, int64_t deadline, int stop_fd, struct error *err)
{
    static const char word[] = WORD "\n";
    struct ssh_words words = {0};
    struct ssh_lines lines;
    char *line = NULL;

    free(TAKE_PTR(t->said));
    ssh_forward_words(t->cfg, &t->spec->at, t->socket, t->spec->socket, "exec cat", &words);
    int r = ssh_child_start(words.v, &t->child, err);
    ssh_words_done(&words);
    if (r < 0)
        return r;
    if (write(t->child.in_fd, word, strlen(word)) < 0)
        return explain(t, -errno, err);
    ssh_lines_init(&lines);
    for (unsigned i = 0; r == 0 && i < GREETINGS_MAX; i++) {
        r = ssh_line(&lines, t->child.out_fd, deadline, stop_fd, &line);
        if (r == 0 && strcmp(line, WORD) == 0)
            break;
    }
    buf_free(&lines.in);
    if (r == -EPIPE)
        ssh_child_wait(&t->child, deadline); /* it may have a word to say before it ends */
    return r < 0 ? explain(t, r, err) : 0;
}

int tunnel_open(struct tunnel *t, int64_t deadline, int stop_fd, struct error *err)
{
    int r = 0;

    t->open = true;
    if (strcmp(t->spec->scheme, "tcp") == 0)
        r = relay_start(t->spec, t->socket, t->cfg->ssh_dead_ms, deadline, stop_fd, &t->relay, err);
    else if (strcmp(t->spec->scheme, "ssh") == 0)
        r = open_ssh(t, deadline, stop_fd, err);
    if (r < 0)
        tunnel_close(t);
    return r;
}

void tunnel_close(struct tunnel *t)
{
    if (!t->open)
        return;
    t->open = false;
    relay_stop(TAKE_PTR(t->relay));
    ssh_child_end(&t->child, 0);
    if (t->socket)
        unlink(t->socket);
}

int tunnel_fd(const struct tunnel *t)
{
    return t->child.err_fd; /* at its end when ssh has ended */
}

bool tunnel_lives(struct tunnel *t)
{
    if (strcmp(t->spec->scheme, "ssh") != 0)
        return true;
    ssh_hear(&t->said, t->child.err_fd);
    return !ssh_child_wait(&t->child, clock_mono_ms());
}

void tunnel_why(struct tunnel *t, char *out, size_t size)
{
    out[0] = '\0';
    if (t->relay) {
        relay_why(t->relay, out, size);
    } else if (strcmp(t->spec->scheme, "ssh") == 0) {
        ssh_hear(&t->said, t->child.err_fd);
        cleanup_free char *said = ssh_last_words(t->said);
        snprintf(out, size, "%s", said);
    }
}
