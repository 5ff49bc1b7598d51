#ifndef MILONGA_SSH_COMMAND_H
#define MILONGA_SSH_COMMAND_H

/* OpenSSH's client as a child: its command lines, its pipes, what is said over them; and the
 * programs that are put on hosts. For the drivers that go over ssh. */

#include "base/buf.h"
#include "base/config.h"
#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* A child with its pipes; -1 where there is none. */
struct ssh_child {
    pid_t pid;
    int pidfd;
    int in_fd, out_fd, err_fd; /* ours: non-blocking */
};
#define SSH_CHILD_INIT                                                                             \
    {                                                                                              \
        .pid = -1, .pidfd = -1, .in_fd = -1, .out_fd = -1, .err_fd = -1                            \
    }

int ssh_child_start(char *const *argv, struct ssh_child *ret, struct error *err);
/* True when it has ended, and then it is reaped. */
bool ssh_child_wait(struct ssh_child *c, int64_t deadline);
/* Closes its pipes, gives it grace_ms to end by itself, then kills it. Reaped in any case. */
void ssh_child_end(struct ssh_child *c, int64_t grace_ms);

/* Adds what a child says on its stderr to *said (NULL at first, the caller's to free), of which the
 * end is kept. Read always, or the child would stand still in the end. */
void ssh_hear(char **said, int fd);
/* The last two lines of it, as one; what stands above (banners, advice) is not the reason. The
 * caller's to free. */
char *ssh_last_words(const char *said);

/* Lines that come from a descriptor. */
struct ssh_lines {
    struct buf in;
    size_t taken;
};
void ssh_lines_init(struct ssh_lines *l);
/* The next one without its newline, in *ret until the next call. -EPIPE at the end, -ETIMEDOUT,
 * -ECANCELED. */
int ssh_line(struct ssh_lines *l, int fd, int64_t deadline, int cancel_fd, char **ret);

/* argv arrays that own their words. */
struct ssh_words {
    char **v; /* NULL-terminated */
    size_t ct;
};
void ssh_word(struct ssh_words *w, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void ssh_words_done(struct ssh_words *w);

/* How a host that no configuration knows is reached; all "" for one that it does. */
struct ssh_reach {
    char address[64];
    char known_hosts[160]; /* a file with its key, under the name that stands in spec->address */
};

/* The master of a lane, which runs `command` in a session of its own. */
void ssh_master_words(const struct config *cfg, const struct config_ssh_host *spec,
                      const struct ssh_reach *reach, const char *control, const char *command,
                      struct ssh_words *ret);
/* A master that forwards the local socket to the remote one, and runs `command` as that one does;
 * tells on stderr why a connection through it came to nothing. */
void ssh_forward_words(const struct config *cfg, const struct config_ssh_host *spec,
                       const char *local, const char *remote, const char *command,
                       struct ssh_words *ret);
/* A further session of it. Never goes another way when the master is gone. */
void ssh_session_words(const struct config *cfg, const struct config_ssh_host *spec,
                       const char *control, const char *command, struct ssh_words *ret);

/* Appends " word", quoted for any shell. */
void ssh_quote(struct buf *b, const char *word);
/* What a login shell is given to become the side of the boot dialogue that is there. */
char *ssh_boot_command(const char *dir);

/* A program as it lies on a host. */
struct ssh_program {
    char *data;
    size_t len;
    char hex[65];
    char name[64]; /* "hostdriver-0123456789abcdef" */
};
/* Reads `what` for a machine of that `uname -m` from beside our own autodriver. */
int ssh_program_load(const struct config *cfg, const char *what, const char *arch,
                     struct ssh_program *ret, struct error *err);
void ssh_program_done(struct ssh_program *p);
/* Puts it there, if it is not there yet. */
int ssh_program_put(const struct ssh_program *p, const struct ssh_child *c, struct ssh_lines *lines,
                    int64_t deadline, int cancel_fd, struct error *err);

#endif
