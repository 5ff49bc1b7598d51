#include "sync.h"

#include "base/clock.h"
#include "base/log.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

void cond_init(pthread_cond_t *c)
{
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(c, &attr);
    pthread_condattr_destroy(&attr);
}

bool cond_wait_until(pthread_cond_t *c, pthread_mutex_t *m, int64_t deadline_ms)
{
    if (deadline_ms == CLOCK_NEVER) {
        pthread_cond_wait(c, m);
        return true;
    }
    struct timespec ts = {.tv_sec = deadline_ms / 1000,
                          .tv_nsec = (long)(deadline_ms % 1000) * 1000000};
    return pthread_cond_timedwait(c, m, &ts) != ETIMEDOUT;
}

int event_try(void)
{
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return fd < 0 ? -errno : fd;
}

int event_new(void)
{
    int fd = event_try();
    if (fd < 0) {
        log_event(LOG_ERROR_, "vmm.no_descriptors", "reason", strerror(-fd), NULL);
        abort();
    }
    return fd;
}

void event_signal(int fd)
{
    uint64_t one = 1;
    /* EAGAIN means that it is signalled many times over. */
    ssize_t n = write(fd, &one, sizeof(one));
    (void)n;
}

void event_clear(int fd)
{
    uint64_t count;
    ssize_t n = read(fd, &count, sizeof(count));
    (void)n;
}

bool event_wait(int fd, int64_t deadline_ms)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    while (true) {
        int n = poll(&p, 1, clock_until_ms(deadline_ms));
        if (n > 0)
            return true;
        if (n == 0 && clock_mono_ms() >= deadline_ms)
            return false;
    }
}

int thread_try(void *(*fn)(void *), void *arg, pthread_t *ret)
{
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int rc = pthread_create(ret, NULL, fn, arg);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return -rc;
}

pthread_t thread_start(void *(*fn)(void *), void *arg)
{
    pthread_t t;
    int rc = thread_try(fn, arg, &t);
    if (rc < 0) {
        log_event(LOG_ERROR_, "vmm.no_thread", "reason", strerror(-rc), NULL);
        abort();
    }
    return t;
}
