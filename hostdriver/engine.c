#include "engine.h"

#include "run.h"

#include "base/clock.h"
#include "base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>

#define LABEL    "milonga.host"
#define ASK_MS   10000
#define AGAIN_MS 100
#define OWN_PIDS 16 /* runtime and autodriver, beside the job's */
#define MOUNT_AT "/.milonga"
#define ARGS_MAX 64

struct args {
    const char *v[ARGS_MAX];
    char *owned[16];
    size_t ct, owned_ct;
};

static void add(struct args *a, const char *word)
{
    if (a->ct < ARGS_MAX - 1)
        a->v[a->ct++] = word;
}

static void add_owned(struct args *a, char *word)
{
    a->owned[a->owned_ct++] = word;
    add(a, word);
}

static void args_done(struct args *a)
{
    for (size_t i = 0; i < a->owned_ct; i++)
        free(a->owned[i]);
}

static void build(struct args *a, const struct container *c)
{
    static const char *const fixed[] = {
        "--interactive",
        "--user=0:0",
        ("--entrypoint=" MOUNT_AT),
        "--log-driver=none",
        "--no-healthcheck",
        "--cap-drop=ALL",
        "--cap-add=CHOWN",
        "--cap-add=DAC_OVERRIDE",
        "--cap-add=FOWNER",
        "--cap-add=SETUID",
        "--cap-add=SETGID",
        "--cap-add=KILL",
        "--security-opt=no-new-privileges",
        "--ulimit=nofile=4096:4096",
        "--ulimit=core=0:0",
        "--pull=never",
    };

    add(a, c->engine);
    add(a, "run");
    for (size_t i = 0; i < ARRAY_SIZE(fixed); i++)
        add(a, fixed[i]);
    add_owned(a, xasprintf("--name=%s", c->name));
    add_owned(a, xasprintf("--label=" LABEL "=%s", c->dir));
    add_owned(a, xasprintf("--volume=%s:" MOUNT_AT ":ro", c->autodriver));
    add(a, c->network ? "--network=bridge" : "--network=none");
    if (c->memory_mb > 0) {
        add_owned(a, xasprintf("--memory=%um", c->memory_mb));
        add_owned(a, xasprintf("--memory-swap=%um", c->memory_mb));
    }
    if (c->pids > 0)
        add_owned(a, xasprintf("--pids-limit=%u", c->pids + OWN_PIDS));
    if (c->cores_milli > 0)
        add_owned(a, xasprintf("--cpus=%u.%03u", c->cores_milli / 1000, c->cores_milli % 1000));
    add(a, c->image);
    add(a, "--pipe");
}

int engine_start(const struct container *c, pid_t *ret_pid, struct error *err)
{
    struct args a = {.ct = 0};
    sigset_t none;

    build(&a, c);
    pid_t pid = fork();
    if (pid == 0) {
        sigemptyset(&none);
        sigprocmask(SIG_SETMASK, &none, NULL);
        signal(SIGPIPE, SIG_DFL);
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        execvp(a.v[0], (char *const *)a.v);
        _exit(127);
    }
    args_done(&a);
    if (pid < 0)
        return err_set_errno(err, ERR_TEMPORARY, errno, "fork");
    *ret_pid = pid;
    return 0;
}

bool engine_oom(const struct container *c)
{
    const char *argv[] = {c->engine, "inspect", "--format={{.State.OOMKilled}}", c->name, NULL};
    cleanup_free char *out = NULL;

    if (run_program(argv, clock_mono_ms() + ASK_MS, &out, NULL) < 0)
        return false;
    /* its word alone: status 137 is anybody's SIGKILL, also that of an engine which stops */
    return strncmp(out, "true", 4) == 0;
}

int engine_remove(const char *engine, const char *name, struct error *err)
{
    const char *argv[] = {engine, "rm", "--force", "--volumes", name, NULL};
    int64_t deadline = clock_mono_ms() + ASK_MS;

    for (;;) {
        struct error why = ERROR_INIT;
        int r = run_program(argv, deadline, NULL, &why);
        if (r == 0 || strcasestr(why.msg, "no such container"))
            return 0;
        /* Somebody else is at it, and the client has no word that waits for that. */
        if (!strcasestr(why.msg, "already in progress") || clock_mono_ms() + AGAIN_MS >= deadline)
            return err_set(err, why.class, why.code, "%s", why.msg);
        poll(NULL, 0, AGAIN_MS);
    }
}

int engine_names(const char *engine, const char *dir, char **ret, struct error *err)
{
    cleanup_free char *filter = xasprintf("--filter=label=" LABEL "=%s", dir);
    const char *argv[] = {engine, "ps", "--all", filter, "--format={{.Names}}", NULL};

    return run_program(argv, clock_mono_ms() + ASK_MS, ret, err);
}

int engine_images(const char *engine, char **ret, struct error *err)
{
    const char *argv[] = {engine, "images", "--no-trunc",
                          "--format={{.Repository}}:{{.Tag}} {{.ID}}", NULL};

    return run_program(argv, clock_mono_ms() + ASK_MS, ret, err);
}
