#include "base/crashpoint.h"

#include "base/mem.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define NAME_MAX_BYTES 96
#define PLANS_MAX      8

struct plan {
    char name[NAME_MAX_BYTES];
    unsigned nth;
    int signal;
    char gate[256]; /* "" none */
    atomic_uint passed;
};

/* Settled once, before the first point that any thread passes. */
static struct plan plans[PLANS_MAX];
static unsigned plan_ct;
static int record_fd = -1; /* -1 none */
static pthread_once_t planned = PTHREAD_ONCE_INIT;

static void bad_plan(const char *text)
{
    dprintf(STDERR_FILENO, "MILONGA_CRASH=%s: NAME,N,die|pause[,GATE][;...] is wanted\n", text);
    _exit(2);
}

/* One of the plans in text; returns how long it is. */
static size_t plan_read(const char *text, struct plan *p)
{
    char how[8] = "";

    if (sscanf(text, "%95[^,;],%u,%7[a-z],%255[^;]", p->name, &p->nth, how, p->gate) < 3)
        bad_plan(text);
    if (strcmp(how, "die") == 0)
        p->signal = SIGKILL;
    else if (strcmp(how, "pause") == 0)
        p->signal = SIGSTOP;
    else
        bad_plan(text);
    return strcspn(text, ";");
}

static void plan_make(void)
{
    const char *text = getenv("MILONGA_CRASH"), *record = getenv("MILONGA_CRASH_RECORD");

    if (record && record[0]) {
        record_fd = open(record, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
        if (record_fd < 0)
            bad_plan(record);
    }
    while (text && text[0]) {
        if (plan_ct == PLANS_MAX)
            bad_plan(text);
        text += plan_read(text, &plans[plan_ct++]);
        text += *text == ';';
    }
}

void crashpoint_pass(const char *where, const char *what, const char *when)
{
    char line[NAME_MAX_BYTES + 1];
    int len;

    pthread_once(&planned, plan_make);
    len = snprintf(line, NAME_MAX_BYTES, "%s.%s.%s", where, what, when);
    for (struct plan *p = plans; p < plans + plan_ct; p++)
        if (strcmp(line, p->name) == 0 && (!p->gate[0] || access(p->gate, F_OK) == 0) &&
            atomic_fetch_add(&p->passed, 1) + 1 == p->nth)
            raise(p->signal); /* to this thread: it goes no further than here */
    if (record_fd >= 0 && len > 0) {
        line[len] = '\n';
        (void)write_all(record_fd, line, (size_t)len + 1);
    }
}
