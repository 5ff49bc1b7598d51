#include "docker_tunnel.h"

#include "../sync.h"
#include "base/clock.h"
#include "base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

/* Connections of a unix socket, carried on over TLS, each by a thread that reads from top to
 * bottom: connect, shake hands, carry. An end of one direction is passed on as one (TLS's
 * close_notify), so that an attached stream's stdin can be closed while its stdout is still read.
 */

#define CONNECT_MS  5000
#define CARRIED_MAX 256 /* connections: 64 machines, and the idle ones that are kept */
#define PIECE       16384
#define NAMES_MAX   200

struct relay {
    const struct config_docker_host *spec;
    SSL_CTX *ctx;
    struct addrinfo *addresses;
    char *socket;
    int64_t dead_ms;
    int listen_fd;
    int stop_fd; /* eventfd, signalled once */
    pthread_t thread;
    pthread_mutex_t lock; /* of what follows */
    pthread_cond_t ended;
    unsigned carried;
    char why[480];
};

static void note(struct relay *r, const char *why)
{
    pthread_mutex_lock(&r->lock);
    snprintf(r->why, sizeof(r->why), "%s", why);
    pthread_mutex_unlock(&r->lock);
}

void relay_why(struct relay *r, char *out, size_t size)
{
    pthread_mutex_lock(&r->lock);
    snprintf(out, size, "%s", r->why);
    pthread_mutex_unlock(&r->lock);
}

/* ---- certificates ---- */

/* The oldest reason is the one that the rest follows from. */
static const char *reason(void)
{
    unsigned long code = ERR_peek_error();
    const char *text = code ? ERR_reason_error_string(code) : NULL;

    return text ? text : errno ? strerror(errno) : "unknown";
}

static int check_file(const char *what, const char *path, struct error *err)
{
    struct stat st;

    if (stat(path, &st) < 0 || access(path, R_OK) < 0)
        return err_set_errno(err, ERR_TEMPORARY, errno, "%s = %s", what, path);
    return 0;
}

static int load_files(const struct config_docker_host *s, SSL_CTX *ctx, struct error *err)
{
    const char *bad = NULL, *path = NULL;

    if (check_file("ca", s->ca, err) < 0 || check_file("cert", s->cert, err) < 0 ||
        check_file("key", s->at.key, err) < 0)
        return -ENOENT;
    ERR_clear_error();
    if (SSL_CTX_load_verify_locations(ctx, s->ca, NULL) != 1)
        bad = "ca", path = s->ca;
    else if (SSL_CTX_use_certificate_chain_file(ctx, s->cert) != 1)
        bad = "cert", path = s->cert;
    else if (SSL_CTX_use_PrivateKey_file(ctx, s->at.key, SSL_FILETYPE_PEM) != 1)
        bad = "key", path = s->at.key;
    if (bad && ERR_GET_REASON(ERR_peek_error()) == X509_R_KEY_VALUES_MISMATCH)
        return err_set(err, ERR_TEMPORARY, EINVAL,
                       "key = %s is not the private key of cert = %s; give the pair", s->at.key,
                       s->cert);
    if (bad)
        return err_set(err, ERR_TEMPORARY, EINVAL, "%s = %s cannot be used: %s; give a PEM file",
                       bad, path, reason());
    return 0;
}

/* A key with a passphrase would have OpenSSL ask on the terminal. */
static int no_passphrase(char *buf, int size, int writing, void *arg)
{
    (void)buf, (void)size, (void)writing, (void)arg;
    return 0;
}

/* For whom the certificate is, so that the operator need not find out. */
static void names_of(X509 *cert, char *out, size_t size)
{
    GENERAL_NAMES *names = cert ? X509_get_ext_d2i(cert, NID_subject_alt_name, NULL, NULL) : NULL;
    BIO *text = BIO_new(BIO_s_mem());
    int ct = names && text ? sk_GENERAL_NAME_num(names) : 0;

    for (int i = 0; i < ct; i++) {
        if (i > 0)
            BIO_puts(text, ", ");
        GENERAL_NAME_print(text, sk_GENERAL_NAME_value(names, i));
    }
    int n = text ? BIO_read(text, out, (int)size - 1) : 0;
    out[n > 0 ? n : 0] = '\0';
    for (char *p = out; *p; p++)
        if ((unsigned char)*p < ' ' || (unsigned char)*p > '~')
            *p = '?';
    if (!out[0])
        snprintf(out, size, "nobody (it has no subjectAltName)");
    BIO_free(text);
    GENERAL_NAMES_free(names);
}

/* A certificate that is refused is not to be had any more afterwards. */
static int on_verify(int ok, X509_STORE_CTX *store)
{
    SSL *ssl = X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx());
    char *names = ssl ? SSL_get_app_data(ssl) : NULL;

    if (!ok && names)
        names_of(X509_STORE_CTX_get0_cert(store), names, NAMES_MAX);
    return ok;
}

static int make_context(struct relay *r, struct error *err)
{
    r->ctx = SSL_CTX_new(TLS_client_method());
    if (!r->ctx)
        abort(); /* out of memory: mem.h */
    SSL_CTX_set_min_proto_version(r->ctx, TLS1_2_VERSION);
    SSL_CTX_set_verify(r->ctx, SSL_VERIFY_PEER, on_verify);
    SSL_CTX_set_default_passwd_cb(r->ctx, no_passphrase);
    return load_files(r->spec, r->ctx, err);
}

static int explain(struct relay *r, SSL *ssl, struct error *err)
{
    const struct config_docker_host *s = r->spec;
    long verdict = SSL_get_verify_result(ssl);

    if (verdict == X509_V_ERR_HOSTNAME_MISMATCH || verdict == X509_V_ERR_IP_ADDRESS_MISMATCH) {
        return err_set(err, ERR_TEMPORARY, EACCES,
                       "the certificate of %s:%d is not for %s but for %s; give the address that "
                       "it names, or the engine a certificate for this one",
                       s->at.address, s->at.port, s->at.address, (char *)SSL_get_app_data(ssl));
    }
    if (verdict != X509_V_OK)
        return err_set(err, ERR_TEMPORARY, EACCES,
                       "the certificate of %s:%d is not one that ca = %s vouches for: %s",
                       s->at.address, s->at.port, s->ca, X509_verify_cert_error_string(verdict));
    return err_set(err, ERR_TEMPORARY, EACCES,
                   "TLS with %s:%d: %s; is that port an engine's with --tlsverify, and cert = %s "
                   "one that it accepts?",
                   s->at.address, s->at.port, reason(), s->cert);
}

/* ---- connecting ---- */

/* 0 when fd is ready; or when it is not said which of the two it was: the caller tries again. */
static int await(int fd, short events, int64_t deadline, int stop_fd, struct error *err)
{
    struct pollfd p[2] = {{.fd = fd, .events = events}, {.fd = stop_fd, .events = POLLIN}};
    int n = poll(p, 2, clock_until_ms(deadline));

    if (n > 0 && p[1].revents)
        return err_set(err, ERR_TEMPORARY, ECANCELED, "stopped");
    if (n == 0)
        return err_set(err, ERR_TEMPORARY, ETIMEDOUT, "no answer in time");
    return 0;
}

/* A peer that is cut off is found out by the kernel while nothing is said, and by is_deaf() while
 * something is; one that hangs, by who asks it. No TCP_USER_TIMEOUT: it also ends a connection
 * whose peer is there, and only slow to read. */
static void keep_alive(int fd, int64_t dead_ms)
{
    int on = 1, idle_s = (int)(dead_ms / 2000), probe_s = 1, probes = (int)(dead_ms / 2000);

    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof(idle_s));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &probe_s, sizeof(probe_s));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof(probes));
}

/* It acknowledges nothing of what is on its way. One that has told that it has no room (a slow
 * reader) has nothing on its way. */
static bool is_deaf(int fd, int64_t dead_ms)
{
    struct tcp_info info = {0};
    socklen_t len = sizeof(info);

    return getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) == 0 && info.tcpi_unacked > 0 &&
           info.tcpi_last_ack_recv > dead_ms;
}

static int dial_one(const struct addrinfo *a, int64_t deadline, int stop_fd, int *ret,
                    struct error *err)
{
    int type = a->ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, failed = 0;
    socklen_t len = sizeof(failed);
    cleanup_close int fd = socket(a->ai_family, type, a->ai_protocol);

    if (fd < 0)
        return err_set_errno(err, ERR_TEMPORARY, errno, "socket");
    if (connect(fd, a->ai_addr, a->ai_addrlen) < 0 && errno != EINPROGRESS)
        return err_set_errno(err, ERR_TEMPORARY, errno, "connect");
    int rc = await(fd, POLLOUT, deadline, stop_fd, err);
    if (rc < 0)
        return rc;
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &failed, &len) < 0 || failed)
        return err_set_errno(err, ERR_TEMPORARY, failed ? failed : errno, "connect");
    *ret = TAKE_FD(fd);
    return 0;
}

static int dial(struct relay *r, int64_t deadline, int stop_fd, int *ret, struct error *err)
{
    int rc = err_set(err, ERR_TEMPORARY, EADDRNOTAVAIL, "no address");

    for (const struct addrinfo *a = r->addresses; a && rc < 0 && rc != -ECANCELED; a = a->ai_next) {
        int64_t until = clock_mono_ms() + CONNECT_MS;
        rc = dial_one(a, until < deadline ? until : deadline, stop_fd, ret, err);
    }
    if (rc < 0)
        return err_wrap(err, "%s:%d", r->spec->at.address, r->spec->at.port);
    keep_alive(*ret, r->dead_ms);
    return 0;
}

/* The name is checked with the chain: an address by the addresses of the certificate, a name by its
 * names. */
static void set_name(SSL *ssl, const char *address)
{
    if (X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), address) == 1)
        return;
    SSL_set_hostflags(ssl, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
    if (SSL_set1_host(ssl, address) != 1 || SSL_set_tlsext_host_name(ssl, address) != 1)
        abort();
}

static int shake_hands(struct relay *r, SSL *ssl, int fd, int64_t deadline, int stop_fd,
                       struct error *err)
{
    for (;;) {
        ERR_clear_error();
        errno = 0;
        int n = SSL_connect(ssl), want = SSL_get_error(ssl, n);
        if (n == 1)
            return 0;
        if (want != SSL_ERROR_WANT_READ && want != SSL_ERROR_WANT_WRITE)
            return explain(r, ssl, err);
        int rc = await(fd, want == SSL_ERROR_WANT_READ ? POLLIN : POLLOUT, deadline, stop_fd, err);
        if (rc < 0)
            return err_wrap(err, "TLS with %s:%d", r->spec->at.address, r->spec->at.port);
    }
}

/* A connection that is ready to carry; the caller's to hang_up(). */
static int call_up(struct relay *r, int64_t deadline, int stop_fd, SSL **ret, struct error *err)
{
    char names[NAMES_MAX] = "";
    int fd = -1;
    int rc = dial(r, deadline, stop_fd, &fd, err);

    if (rc < 0)
        return rc;
    SSL *ssl = SSL_new(r->ctx);
    if (!ssl || SSL_set_fd(ssl, fd) != 1)
        abort();
    SSL_set_app_data(ssl, names);
    set_name(ssl, r->spec->at.address);
    rc = shake_hands(r, ssl, fd, deadline, stop_fd, err);
    SSL_set_app_data(ssl, NULL);
    if (rc == 0) {
        *ret = ssl;
        return 0;
    }
    SSL_free(ssl);
    close(fd);
    return rc;
}

static void hang_up(SSL *ssl)
{
    int fd = SSL_get_fd(ssl);

    SSL_free(ssl);
    close(fd);
}

/* ---- carrying ---- */

struct piece {
    uint8_t data[PIECE];
    size_t at, len; /* what is still to be passed on */
    bool end;       /* nothing comes after it */
    bool passed;    /* and that was said */
};

struct carried {
    struct relay *relay;
    int fd;     /* the near end */
    SSL *ssl;   /* the far end */
    short near; /* what is waited for */
    short far;
    bool moved;
    bool broken;
    struct piece up, down;
};

/* What an operation of TLS that did not go waits for. */
static void far_wants(struct carried *c, int n)
{
    char why[400];

    switch (SSL_get_error(c->ssl, n)) {
    case SSL_ERROR_WANT_READ:
        c->far |= POLLIN;
        return;
    case SSL_ERROR_WANT_WRITE:
        c->far |= POLLOUT;
        return;
    case SSL_ERROR_ZERO_RETURN:
        c->down.end = true;
        return;
    case SSL_ERROR_SSL: /* an alert: with TLS 1.3 our certificate is refused after the handshake */
        snprintf(
            why, sizeof(why), "%s:%d ended the connection: %s; is cert = %s one that it accepts?",
            c->relay->spec->at.address, c->relay->spec->at.port, reason(), c->relay->spec->cert);
        note(c->relay, why);
    }
    c->broken = true;
}

static void carry_up(struct carried *c)
{
    struct piece *p = &c->up;

    if (p->len == 0 && !p->end) {
        ssize_t n = recv(c->fd, p->data, sizeof(p->data), MSG_DONTWAIT);
        if (n > 0)
            p->len = (size_t)n;
        else if (n == 0)
            p->end = true;
        else if (errno == EAGAIN || errno == EINTR)
            c->near |= POLLIN;
        else
            c->broken = true;
    }
    ERR_clear_error();
    errno = 0;
    if (p->len > 0) {
        /* All or nothing, and the same bytes again: OpenSSL's way when it is not told another. */
        int n = SSL_write(c->ssl, p->data, (int)p->len);
        if (n > 0) {
            p->len = 0;
            c->moved = true;
        } else {
            far_wants(c, n);
        }
    } else if (p->end && !p->passed) {
        int n = SSL_shutdown(c->ssl);
        p->passed = n >= 0;
        c->moved = c->moved || p->passed;
        if (n < 0)
            far_wants(c, n);
    }
}

static void carry_down(struct carried *c)
{
    struct piece *p = &c->down;

    ERR_clear_error();
    errno = 0;
    if (p->len == 0 && !p->end) {
        int n = SSL_read(c->ssl, p->data, sizeof(p->data));
        p->at = 0;
        p->len = n > 0 ? (size_t)n : 0;
        if (n <= 0)
            far_wants(c, n);
    }
    if (p->len > 0) {
        ssize_t n = send(c->fd, p->data + p->at, p->len, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n > 0) {
            p->at += (size_t)n;
            p->len -= (size_t)n;
            c->moved = true;
        } else if (errno == EAGAIN || errno == EINTR) {
            c->near |= POLLOUT;
        } else {
            c->broken = true;
        }
    }
}

/* Until the engine has ended it, or either side is gone, or all is to end. */
static void carry(struct carried *c)
{
    int far = SSL_get_fd(c->ssl);

    for (;;) {
        c->near = c->far = 0;
        c->moved = false;
        carry_up(c);
        carry_down(c);
        if (c->broken || (c->down.end && c->down.len == 0))
            return;
        /* A far end that is gone would wake us again and again while it is not waited for. */
        struct pollfd p[3] = {{.fd = c->fd, .events = c->near},
                              {.fd = c->far ? far : -1, .events = c->far},
                              {.fd = c->relay->stop_fd, .events = POLLIN}};
        int n = poll(p, 3, c->moved ? 0 : (int)(c->relay->dead_ms / 4));
        if (p[2].revents || (n == 0 && !c->moved && is_deaf(far, c->relay->dead_ms)))
            return;
        /* Gone for good and all that it said is carried, or cannot be. */
        if (!c->moved && (p[0].revents & POLLHUP) && (c->up.end || c->up.len > 0))
            return;
    }
}

static void *carried_main(void *arg)
{
    struct carried *c = arg;
    struct relay *r = c->relay;
    struct error err = ERROR_INIT;

    if (call_up(r, clock_mono_ms() + r->dead_ms, r->stop_fd, &c->ssl, &err) == 0) {
        carry(c);
        hang_up(c->ssl);
    } else if (err.code != ECANCELED) {
        note(r, err.msg);
    }
    close(c->fd);
    free(c);
    pthread_mutex_lock(&r->lock);
    r->carried--;
    pthread_cond_signal(&r->ended);
    pthread_mutex_unlock(&r->lock);
    return NULL;
}

/* One more, if there is room; else it is closed, which its caller takes for an engine's trouble. */
static void take(struct relay *r, int fd)
{
    struct carried *c = xcalloc(1, sizeof(*c));
    pthread_t thread;

    c->relay = r;
    c->fd = fd;
    pthread_mutex_lock(&r->lock);
    bool room = r->carried < CARRIED_MAX;
    r->carried += room;
    pthread_mutex_unlock(&r->lock);
    if (room && thread_try(carried_main, c, &thread) == 0) {
        pthread_detach(thread);
        return;
    }
    note(r, room ? "no thread for a further connection" : "too many connections at once");
    if (room) {
        pthread_mutex_lock(&r->lock);
        r->carried--;
        pthread_mutex_unlock(&r->lock);
    }
    close(fd);
    free(c);
}

static void *relay_main(void *arg)
{
    struct relay *r = arg;

    for (;;) {
        struct pollfd p[2] = {{.fd = r->listen_fd, .events = POLLIN},
                              {.fd = r->stop_fd, .events = POLLIN}};
        poll(p, 2, -1);
        if (p[1].revents)
            return NULL;
        int fd = accept4(r->listen_fd, NULL, NULL, SOCK_CLOEXEC);
        if (fd >= 0)
            take(r, fd);
        else if (errno == EMFILE || errno == ENFILE || errno == ENOMEM)
            event_wait(r->stop_fd, clock_mono_ms() + 100); /* whoever waits there waits on */
    }
}

/* ---- the whole ---- */

static int listen_at(struct relay *r, struct error *err)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};

    /* docker_hosts.c saw that it fits. */
    memcpy(addr.sun_path, r->socket, strlen(r->socket) + 1);
    unlink(r->socket);
    r->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (r->listen_fd < 0 || bind(r->listen_fd, (struct sockaddr *)&addr, sizeof(addr)) < 0 ||
        chmod(r->socket, 0600) < 0 || listen(r->listen_fd, 64) < 0)
        return err_set_errno(err, ERR_TEMPORARY, errno, "socket %s", r->socket);
    return 0;
}

/* A question to the resolver, which cannot be told to stop: so it has a thread of its own, and
 * whoever is last has the memory. */
struct lookup {
    atomic_int refs;
    int done_fd; /* eventfd */
    char *address;
    char port[16];
    struct addrinfo *found;
    int rc; /* getaddrinfo's */
};

static void lookup_unref(struct lookup *l)
{
    if (atomic_fetch_sub(&l->refs, 1) != 1)
        return;
    if (l->found)
        freeaddrinfo(l->found);
    close(l->done_fd);
    free(l->address);
    free(l);
}

static void *lookup_main(void *arg)
{
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_ADDRCONFIG};
    struct lookup *l = arg;

    l->rc = getaddrinfo(l->address, l->port, &hints, &l->found);
    event_signal(l->done_fd);
    lookup_unref(l);
    return NULL;
}

static int lookup_start(const struct relay *r, struct lookup **ret, struct error *err)
{
    pthread_t thread;
    int fd = event_try();

    if (fd < 0)
        return err_set_errno(err, ERR_TEMPORARY, -fd, "look %s up", r->spec->at.address);
    struct lookup *l = xcalloc(1, sizeof(*l));
    atomic_init(&l->refs, 2);
    l->done_fd = fd;
    l->address = xstrdup(r->spec->at.address);
    snprintf(l->port, sizeof(l->port), "%d", r->spec->at.port);
    int rc = thread_try(lookup_main, l, &thread);
    if (rc < 0) {
        atomic_store(&l->refs, 1);
        lookup_unref(l);
        return err_set_errno(err, ERR_TEMPORARY, -rc, "no thread to look %s up",
                             r->spec->at.address);
    }
    pthread_detach(thread);
    *ret = l;
    return 0;
}

static int resolve(struct relay *r, int64_t deadline, int stop_fd, struct error *err)
{
    struct lookup *l = NULL;
    int rc = lookup_start(r, &l, err);

    if (rc < 0)
        return rc;
    rc = await(l->done_fd, POLLIN, deadline, stop_fd, err);
    if (rc < 0) {
        err_wrap(err, "look %s up", r->spec->at.address);
    } else if (l->rc != 0) {
        rc = err_set(err, ERR_TEMPORARY, EHOSTUNREACH, "%s: %s", r->spec->at.address,
                     gai_strerror(l->rc));
    } else {
        r->addresses = l->found;
        l->found = NULL;
    }
    lookup_unref(l);
    return rc;
}

static void relay_free(struct relay *r)
{
    if (r->listen_fd >= 0) {
        close(r->listen_fd);
        unlink(r->socket);
    }
    if (r->addresses)
        freeaddrinfo(r->addresses);
    SSL_CTX_free(r->ctx);
    if (r->stop_fd >= 0)
        close(r->stop_fd);
    pthread_cond_destroy(&r->ended);
    pthread_mutex_destroy(&r->lock);
    free(r->socket);
    free(r);
}

int relay_start(const struct config_docker_host *spec, const char *socket, int64_t dead_ms,
                int64_t deadline, int stop_fd, struct relay **ret, struct error *err)
{
    struct relay *r = xcalloc(1, sizeof(*r));
    SSL *ssl = NULL;

    r->spec = spec;
    r->socket = xstrdup(socket);
    r->dead_ms = dead_ms;
    r->listen_fd = -1;
    r->stop_fd = event_try();
    pthread_mutex_init(&r->lock, NULL);
    pthread_cond_init(&r->ended, NULL);
    int rc = r->stop_fd < 0 ? err_set_errno(err, ERR_TEMPORARY, -r->stop_fd, "connections to %s",
                                            spec->at.address)
                            : make_context(r, err);
    if (rc == 0)
        rc = resolve(r, deadline, stop_fd, err);
    if (rc == 0)
        rc = call_up(r, deadline, stop_fd, &ssl, err);
    if (rc == 0) {
        hang_up(ssl);
        rc = listen_at(r, err);
    }
    if (rc == 0 && (rc = thread_try(relay_main, r, &r->thread)) < 0)
        err_set_errno(err, ERR_TEMPORARY, -rc, "no thread for connections to %s", spec->at.address);
    if (rc < 0) {
        relay_free(r);
        return rc;
    }
    *ret = r;
    return 0;
}

void relay_stop(struct relay *r)
{
    if (!r)
        return;
    event_signal(r->stop_fd);
    pthread_join(r->thread, NULL);
    unlink(r->socket);
    pthread_mutex_lock(&r->lock);
    while (r->carried > 0)
        pthread_cond_wait(&r->ended, &r->lock);
    pthread_mutex_unlock(&r->lock);
    relay_free(r);
}
