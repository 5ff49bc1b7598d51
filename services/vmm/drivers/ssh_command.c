#include "services/vmm/drivers/ssh_command.h"

#include "base/clock.h"
#include "base/digest.h"
#include "base/mem.h"
#include "services/vmm/machine.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/wait.h>

#define LINES_MAX   65536
#define PROGRAM_MAX (64 << 20)
#define SAID_MAX    1000

/* ---- children ---- */

/* What ssh needs of our environment: no LANG to send on, no DISPLAY. */
static char **environment(void)
{
    static const char *const names[] = {"PATH", "HOME", "USER", "LOGNAME", "SSH_AUTH_SOCK"};
    char **env = xcalloc(ARRAY_SIZE(names) + 1, sizeof(*env));
    size_t ct = 0;

    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        const char *value = getenv(names[i]);
        if (value)
            env[ct++] = xasprintf("%s=%s", names[i], value);
    }
    return env;
}

static void words_free(char **v)
{
    for (char **p = v; p && *p; p++)
        free(*p);
    free(v);
}

/* Signals as a program expects them, a session of its own (a terminal's ^C is not for machines),
 * and nothing of ours open. */
static int spawn(char *const *argv, const int theirs[3], pid_t *ret)
{
    posix_spawn_file_actions_t files;
    posix_spawnattr_t attr;
    sigset_t all, none;
    char **env = environment();

    sigfillset(&all);
    sigemptyset(&none);
    posix_spawnattr_init(&attr);
    posix_spawnattr_setflags(&attr,
                             POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSID);
    posix_spawnattr_setsigdefault(&attr, &all);
    posix_spawnattr_setsigmask(&attr, &none);
    posix_spawn_file_actions_init(&files);
    for (int i = 0; i < 3; i++)
        posix_spawn_file_actions_adddup2(&files, theirs[i], i);
    posix_spawn_file_actions_addclosefrom_np(&files, 3);
    int r = posix_spawnp(ret, argv[0], &files, &attr, argv, env);
    posix_spawn_file_actions_destroy(&files);
    posix_spawnattr_destroy(&attr);
    words_free(env);
    return -r;
}

/* Above 2, so that a dup2 onto 0 to 2 takes no other's place. */
static int make_pipe(int fds[2])
{
    if (pipe2(fds, O_CLOEXEC) < 0)
        return -errno;
    for (int i = 0; i < 2; i++)
        if (fds[i] < 3) {
            int up = fcntl(fds[i], F_DUPFD_CLOEXEC, 3);
            close(fds[i]);
            fds[i] = up;
        }
    return fds[0] < 0 || fds[1] < 0 ? -EMFILE : 0;
}

static void close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

int ssh_child_start(char *const *argv, struct ssh_child *ret, struct error *err)
{
    struct ssh_child c = SSH_CHILD_INIT;
    int in[2] = {-1, -1}, out[2] = {-1, -1}, said[2] = {-1, -1};

    int r = make_pipe(in);
    if (r == 0)
        r = make_pipe(out);
    if (r == 0)
        r = make_pipe(said);
    if (r == 0)
        r = spawn(argv, (const int[]){in[0], out[1], said[1]}, &c.pid);
    if (r == 0 && (c.pidfd = (int)syscall(SYS_pidfd_open, c.pid, 0)) < 0) {
        r = -errno;
        kill(c.pid, SIGKILL);
        waitpid(c.pid, NULL, 0);
    }
    close_fd(&in[0]);
    close_fd(&out[1]);
    close_fd(&said[1]);
    if (r < 0) {
        close_fd(&in[1]);
        close_fd(&out[0]);
        close_fd(&said[0]);
        return err_set_errno(err, ERR_TEMPORARY, -r, "cannot start %s", argv[0]);
    }
    c.in_fd = in[1];
    c.out_fd = out[0];
    c.err_fd = said[0];
    for (int i = 0; i < 3; i++)
        fcntl((const int[]){c.in_fd, c.out_fd, c.err_fd}[i], F_SETFL, O_NONBLOCK);
    *ret = c;
    return 0;
}

bool ssh_child_wait(struct ssh_child *c, int64_t deadline)
{
    struct pollfd p = {.fd = c->pidfd, .events = POLLIN};

    if (c->pid < 0)
        return true;
    for (;;) {
        int n = poll(&p, 1, clock_until_ms(deadline));
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return false;
        break;
    }
    while (waitpid(c->pid, NULL, 0) < 0 && errno == EINTR)
        ;
    close_fd(&c->pidfd);
    c->pid = -1;
    return true;
}

void ssh_child_end(struct ssh_child *c, int64_t grace_ms)
{
    close_fd(&c->in_fd);
    if (grace_ms <= 0 || !ssh_child_wait(c, clock_mono_ms() + grace_ms)) {
        if (c->pid >= 0)
            kill(c->pid, SIGKILL);
        ssh_child_wait(c, CLOCK_NEVER);
    }
    close_fd(&c->out_fd);
    close_fd(&c->err_fd);
}

/* ---- what it says ---- */

void ssh_hear(char **said, int fd)
{
    char text[512];

    for (ssize_t n; fd >= 0 && (n = read(fd, text, sizeof(text) - 1)) > 0;) {
        text[n] = '\0';
        for (char *p = text; *p; p++)
            if ((unsigned char)*p < ' ' && *p != '\n')
                *p = ' ';
        char *all = xasprintf("%s%s", *said ? *said : "", text);
        size_t len = strlen(all), drop = len > SAID_MAX ? len - SAID_MAX : 0;
        free(*said);
        *said = xstrdup(all + drop);
        free(all);
    }
}

char *ssh_last_words(const char *said)
{
    size_t len = said ? strlen(said) : 0, from;

    while (len > 0 && (said[len - 1] == '\n' || said[len - 1] == ' '))
        len--;
    from = len;
    for (int lines = 0; from > 0; from--)
        if (said[from - 1] == '\n' && ++lines == 2)
            break;
    char *words = xstrndup(len > 0 ? said + from : "", len - from);
    for (char *p = words; *p; p++)
        if (*p == '\n')
            *p = ' ';
    return words;
}

/* ---- lines ---- */

void ssh_lines_init(struct ssh_lines *l)
{
    *l = (struct ssh_lines){.taken = 0};
    buf_init(&l->in, LINES_MAX);
}

int ssh_line(struct ssh_lines *l, int fd, int64_t deadline, int cancel_fd, char **ret)
{
    if (l->taken > 0)
        buf_consume(&l->in, l->taken);
    l->taken = 0;
    for (;;) {
        char *end = l->in.len > 0 ? memchr(l->in.data, '\n', l->in.len) : NULL;
        if (end) {
            *end = '\0';
            l->taken = (size_t)(end - l->in.data) + 1;
            *ret = l->in.data;
            return 0;
        }
        char *at = buf_reserve(&l->in, 1024);
        if (!at)
            return -EPIPE; /* that is no line of ours */
        struct pollfd p[2] = {{.fd = fd, .events = POLLIN}, {.fd = cancel_fd, .events = POLLIN}};
        int n = poll(p, 2, clock_until_ms(deadline));
        if (n == 0)
            return -ETIMEDOUT;
        if (n > 0 && p[1].revents)
            return -ECANCELED;
        ssize_t got = n < 0 ? -1 : read(fd, at, 1024);
        if (got == 0 || (got < 0 && errno != EINTR && errno != EAGAIN))
            return -EPIPE;
        if (got > 0)
            l->in.len += (size_t)got;
    }
}

/* ---- words ---- */

void ssh_word(struct ssh_words *w, const char *fmt, ...)
{
    va_list ap;

    w->v = xrealloc(w->v, (w->ct + 2) * sizeof(*w->v));
    va_start(ap, fmt);
    if (vasprintf(&w->v[w->ct], fmt, ap) < 0)
        abort();
    va_end(ap);
    w->v[++w->ct] = NULL;
}

void ssh_words_done(struct ssh_words *w)
{
    words_free(w->v);
    *w = (struct ssh_words){0};
}

static void options(struct ssh_words *w, const char *const *list, size_t ct)
{
    for (size_t i = 0; i < ct; i++) {
        ssh_word(w, "-o");
        ssh_word(w, "%s", list[i]);
    }
}

/* The first value of an option wins, so these stand above any configuration file; what they leave
 * open (ProxyJump, HostName, Ciphers, ...) is the operator's. */
static const char *const always[] = {
    /* what an older client does not know */
    "IgnoreUnknown=StdinNull,SessionType,ForkAfterAuthentication,UpdateHostKeys",
    "BatchMode=yes",
    "StrictHostKeyChecking=yes",
    "UpdateHostKeys=no",
    "ForwardAgent=no",
    "ForwardX11=no",
    "Tunnel=no",
    "PermitLocalCommand=no",
    "GSSAPIDelegateCredentials=no",
    "AddKeysToAgent=no",
    "RequestTTY=no",
    "RemoteCommand=none",
    "SessionType=default",
    "StdinNull=no",
    "ForkAfterAuthentication=no",
    "ConnectTimeout=5",
    "ConnectionAttempts=1",
    "ServerAliveCountMax=2",
    "ControlPersist=no",
};

/* All of a command line but what the connection is for, which `own` says, and the command. */
static void login_words(const struct config *cfg, const struct config_ssh_host *spec,
                        const struct ssh_reach *reach, const char *const *own, size_t own_ct,
                        struct ssh_words *ret)
{
    const char *key = spec->key[0] ? spec->key : cfg->ssh_key;
    const char *known = reach->address[0] ? reach->known_hosts : cfg->ssh_known_hosts;
    int64_t alive_s = cfg->ssh_dead_ms / 4000;

    ssh_word(ret, "%s", cfg->ssh_program);
    if (cfg->ssh_config[0]) {
        ssh_word(ret, "-F");
        ssh_word(ret, "%s", cfg->ssh_config);
    }
    options(ret, own, own_ct);
    options(ret, always, ARRAY_SIZE(always));
    ssh_word(ret, "-oServerAliveInterval=%lld", (long long)(alive_s > 0 ? alive_s : 1));
    if (reach->address[0]) {
        ssh_word(ret, "-oHostName=%s", reach->address);
        ssh_word(ret, "-oHostKeyAlias=%s", spec->address);
    }
    if (known[0]) {
        ssh_word(ret, "-oUserKnownHostsFile=%s", known);
        ssh_word(ret, "-oGlobalKnownHostsFile=/dev/null");
    }
    if (key[0]) {
        ssh_word(ret, "-oIdentitiesOnly=yes");
        ssh_word(ret, "-oIdentityAgent=none");
        ssh_word(ret, "-i");
        ssh_word(ret, "%s", key);
    }
    if (spec->port > 0)
        ssh_word(ret, "-oPort=%d", spec->port);
    if (spec->user[0])
        ssh_word(ret, "-oUser=%s", spec->user);
}

void ssh_master_words(const struct config *cfg, const struct config_ssh_host *spec,
                      const struct ssh_reach *reach, const char *control, const char *command,
                      struct ssh_words *ret)
{
    static const char *const own[] = {"ClearAllForwardings=yes", "LogLevel=ERROR",
                                      "ControlMaster=yes"};

    login_words(cfg, spec, reach, own, ARRAY_SIZE(own), ret);
    ssh_word(ret, "-oControlPath=%s", control);
    ssh_word(ret, "--");
    ssh_word(ret, "%s", spec->address);
    ssh_word(ret, "%s", command);
}

void ssh_forward_words(const struct config *cfg, const struct config_ssh_host *spec,
                       const char *local, const char *remote, const char *command,
                       struct ssh_words *ret)
{
    /* INFO: that is where it says why the other side refused. */
    static const char *const own[] = {"ExitOnForwardFailure=yes",
                                      "StreamLocalBindUnlink=yes",
                                      "StreamLocalBindMask=0177",
                                      "GatewayPorts=no",
                                      "LogLevel=INFO",
                                      "ControlMaster=no",
                                      "ControlPath=none"};

    const struct ssh_reach configured = {.address = ""};

    login_words(cfg, spec, &configured, own, ARRAY_SIZE(own), ret);
    ssh_word(ret, "-L");
    ssh_word(ret, "%s:%s", local, remote);
    ssh_word(ret, "--");
    ssh_word(ret, "%s", spec->address);
    ssh_word(ret, "%s", command);
}

void ssh_session_words(const struct config *cfg, const struct config_ssh_host *spec,
                       const char *control, const char *command, struct ssh_words *ret)
{
    static const char *const own[] = {
        "BatchMode=yes",    "RequestTTY=no",           "LogLevel=ERROR",
        "ControlMaster=no", "ProxyCommand=/bin/false", /* where it would go without the master */
    };

    ssh_word(ret, "%s", cfg->ssh_program);
    ssh_word(ret, "-F");
    ssh_word(ret, "none");
    options(ret, own, ARRAY_SIZE(own));
    ssh_word(ret, "-oControlPath=%s", control);
    ssh_word(ret, "--");
    ssh_word(ret, "%s", spec->address);
    ssh_word(ret, "%s", command);
}

/* ---- what a shell there sees ---- */

void ssh_quote(struct buf *b, const char *word)
{
    static const char plain[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./:=@+,-";

    buf_appends(b, b->len > 0 ? " " : "");
    if (word[0] && strspn(word, plain) == strlen(word)) {
        buf_appends(b, word);
        return;
    }
    buf_appends(b, "'");
    for (const char *p = word; *p; p++)
        if (*p == '\'')
            buf_appends(b, "'\\''");
        else
            buf_append(b, p, 1);
    buf_appends(b, "'");
}

/* Fixed texts without a quote or a newline, so that every login shell passes them on as they are;
 * what differs comes as words. First: become root. Then: a greeting, programs as they are wanted
 * ("put NAME SIZE SHA256": have, or send and the bytes), and in the end the keeper itself. */
static const char become[] =
    "if test \"$(id -u)\" -eq 0; then echo milonga-root; exec /bin/sh -c \"$1\" milonga \"$2\"; "
    "else echo milonga-sudo; exec sudo -n -- /bin/sh -c \"$1\" milonga \"$2\"; fi";
static const char dialogue[] =
    "umask 022; mkdir -p -- \"$1\" && cd -- \"$1\" && chmod 711 . || exit 1; "
    "echo \"milonga-host $(uname -m)\"; "
    "sum() { sha256sum | cut -c 1-64; }; "
    "while read -r verb name size hex; do case \"$verb\" in "
    "put) if test -x \"$name\" && test \"$(sum <\"$name\")\" = \"$hex\"; then echo have; else "
    "echo send; t=\".$name.$$\"; "
    "if head -c \"$size\" >\"$t\" && test \"$(sum <\"$t\")\" = \"$hex\" && chmod 755 \"$t\" && "
    "mv -f \"$t\" \"$name\"; then echo have; else rm -f \"$t\"; echo \"fail cannot write "
    "$1/$name\"; exit 1; fi; fi;; "
    "run) exec \"./$name\" keep \"$1\";; esac; done";

char *ssh_boot_command(const char *dir)
{
    struct buf b = BUF_INIT(8192);

    buf_appends(&b, "exec /bin/sh -c");
    ssh_quote(&b, become);
    ssh_quote(&b, "milonga");
    ssh_quote(&b, dialogue);
    ssh_quote(&b, dir);
    return buf_detach(&b);
}

/* ---- programs ---- */

int ssh_program_load(const struct config *cfg, const char *what, const char *arch,
                     struct ssh_program *ret, struct error *err)
{
    cleanup_free char *own = NULL;
    struct ssh_program p = {.len = 0};
    struct utsname uts;

    int r = machine_autodriver(cfg, &own, err);
    if (r < 0)
        return r;
    uname(&uts);
    char *slash = strrchr(own, '/');
    int dir_len = slash ? (int)(slash - own) : 1;
    bool same = strcmp(uts.machine, arch) == 0;
    cleanup_free char *path = same && strcmp(what, "autodriver") == 0
                                  ? xstrdup(own)
                                  : xasprintf("%.*s/%s%s%s", dir_len, slash ? own : ".", what,
                                              same ? "" : ".", same ? "" : arch);
    r = read_file(path, PROGRAM_MAX, &p.data, &p.len);
    if (r < 0)
        return err_set_errno(err, ERR_PERMANENT, -r,
                             "a host of architecture %s needs %s; install the %s of a build for it "
                             "there",
                             arch, path, what);
    digest_hex(DIGEST_SHA256, p.data, p.len, p.hex);
    snprintf(p.name, sizeof(p.name), "%s-%.16s", what, p.hex);
    *ret = p;
    return 0;
}

void ssh_program_done(struct ssh_program *p)
{
    free(p->data);
    *p = (struct ssh_program){0};
}

/* Over EAGAIN, until the deadline. */
static int send_all(int fd, const char *data, size_t len, int64_t deadline, int cancel_fd)
{
    while (len > 0) {
        struct pollfd p[2] = {{.fd = fd, .events = POLLOUT}, {.fd = cancel_fd, .events = POLLIN}};
        int n = poll(p, 2, clock_until_ms(deadline));
        if (n == 0)
            return -ETIMEDOUT;
        if (n > 0 && p[1].revents)
            return -ECANCELED;
        ssize_t put = n < 0 ? -1 : write(fd, data, len);
        if (put < 0 && errno != EINTR && errno != EAGAIN)
            return -errno;
        if (put > 0) {
            data += put;
            len -= (size_t)put;
        }
    }
    return 0;
}

int ssh_program_put(const struct ssh_program *p, const struct ssh_child *c, struct ssh_lines *lines,
                    int64_t deadline, int cancel_fd, struct error *err)
{
    cleanup_free char *order = xasprintf("put %s %zu %s\n", p->name, p->len, p->hex);
    char *line = NULL;

    int r = send_all(c->in_fd, order, strlen(order), deadline, cancel_fd);
    if (r == 0)
        r = ssh_line(lines, c->out_fd, deadline, cancel_fd, &line);
    if (r == 0 && strcmp(line, "send") == 0) {
        r = send_all(c->in_fd, p->data, p->len, deadline, cancel_fd);
        if (r == 0)
            r = ssh_line(lines, c->out_fd, deadline, cancel_fd, &line);
    }
    if (r < 0)
        return err_set_errno(err, ERR_TEMPORARY, -r, "copying %s there", p->name);
    if (strcmp(line, "have") != 0)
        return err_set(err, ERR_TEMPORARY, EIO, "copying %s there: %.200s", p->name, line);
    return 0;
}
