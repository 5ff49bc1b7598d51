#include "wire/resolve.h"

#include "base/mem.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/socket.h>

struct resolve {
    atomic_int refs; /* the owner's and the thread's: a look-up can not be cancelled */
    atomic_bool done;
    int status; /* of getaddrinfo; this and what follows is the thread's until `done` */
    struct resolve_addrs addrs;
    char host[];
};

bool resolve_numeric(const char *host)
{
    struct addrinfo hints = {.ai_flags = AI_NUMERICHOST, .ai_socktype = SOCK_STREAM}, *list;

    if (getaddrinfo(host, NULL, &hints, &list) != 0)
        return false;
    freeaddrinfo(list);
    return true;
}

void resolve_free(struct resolve *r)
{
    if (r && atomic_fetch_sub(&r->refs, 1) == 1)
        free(r);
}

static void *resolve_run(void *arg)
{
    struct resolve *r = arg;
    struct addrinfo hints = {.ai_flags = AI_ADDRCONFIG, .ai_socktype = SOCK_STREAM};
    struct addrinfo *list = NULL;

    r->status = getaddrinfo(r->host, NULL, &hints, &list);
    for (struct addrinfo *a = list; a && r->addrs.ct < RESOLVE_ADDRS_MAX; a = a->ai_next)
        if (getnameinfo(a->ai_addr, a->ai_addrlen, r->addrs.text[r->addrs.ct],
                        sizeof(r->addrs.text[0]), NULL, 0, NI_NUMERICHOST) == 0)
            r->addrs.ct++;
    if (list)
        freeaddrinfo(list);
    if (r->status == 0 && r->addrs.ct == 0)
        r->status = EAI_NONAME;
    atomic_store(&r->done, true);
    resolve_free(r);
    return NULL;
}

struct resolve *resolve_start(const char *host)
{
    struct resolve *r = xcalloc(1, sizeof(*r) + strlen(host) + 1);
    pthread_attr_t attr;
    sigset_t all, before;
    pthread_t thread;
    int error;

    memcpy(r->host, host, strlen(host));
    atomic_init(&r->refs, 2);
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    sigfillset(&all); /* the service's signals are for the threads that wait for them */
    pthread_sigmask(SIG_BLOCK, &all, &before);
    error = pthread_create(&thread, &attr, resolve_run, r);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attr);
    if (error) {
        free(r);
        return NULL;
    }
    return r;
}

int resolve_poll(struct resolve *r, struct resolve_addrs *ret)
{
    if (!atomic_load(&r->done))
        return -EAGAIN;
    if (r->status != 0)
        return -ENOENT;
    *ret = r->addrs;
    return 0;
}

const char *resolve_error(const struct resolve *r)
{
    return gai_strerror(r->status);
}
