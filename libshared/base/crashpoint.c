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

/* Settled once, before the first point that any thread passes. */
static struct {
    char name[NAME_MAX_BYTES]; /* "" none */
    unsigned nth;
    int signal;
    char gate[256]; /* "" none */
    int record_fd;  /* -1 none */
} plan;
static pthread_once_t planned = PTHREAD_ONCE_INIT;
static atomic_uint passed;

static void bad_plan(const char *text)
{
    dprintf(STDERR_FILENO, "MILONGA_CRASH=%s: NAME,N,die|pause[,GATE] is wanted\n", text);
    _exit(2);
}

static void plan_make(void)
{
    const char *text = getenv("MILONGA_CRASH"), *record = getenv("MILONGA_CRASH_RECORD");
    char how[8] = "";

    plan.record_fd = -1;
    if (record && record[0]) {
        plan.record_fd = open(record, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
        if (plan.record_fd < 0)
            bad_plan(record);
    }
    if (!text || !text[0])
        return;
    if (sscanf(text, "%95[^,],%u,%7[a-z],%255s", plan.name, &plan.nth, how, plan.gate) < 3)
        bad_plan(text);
    if (strcmp(how, "die") == 0)
        plan.signal = SIGKILL;
    else if (strcmp(how, "pause") == 0)
        plan.signal = SIGSTOP;
    else
        bad_plan(text);
}

void crashpoint_pass(const char *where, const char *what, const char *when)
{
    char line[NAME_MAX_BYTES + 1];
    int len;

    pthread_once(&planned, plan_make);
    len = snprintf(line, NAME_MAX_BYTES, "%s.%s.%s", where, what, when);
    if (plan.signal && strcmp(line, plan.name) == 0 &&
        (!plan.gate[0] || access(plan.gate, F_OK) == 0) &&
        atomic_fetch_add(&passed, 1) + 1 == plan.nth)
        raise(plan.signal); /* to this thread: it goes no further than here */
    if (plan.record_fd >= 0 && len > 0) {
        line[len] = '\n';
        (void)write_all(plan.record_fd, line, (size_t)len + 1);
    }
}
