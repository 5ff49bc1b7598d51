/* What carries an engine's connections over TLS, between a unix socket and a server of the test's:
 * a peer that is slow, one that is gone, and the end of all of it while bytes flow. */
#include <openssl/ssl.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/socket.h>

static atomic_uint polls;  /* of all that is carried */
static atomic_bool floods; /* there is always more to read there, and room for it here */

static int count_poll(struct pollfd *fds, nfds_t ct, int ms)
{
    atomic_fetch_add(&polls, 1);
    return poll(fds, ct, ms);
}

static int flood_read(SSL *ssl, void *buf, int len)
{
    return atomic_load(&floods) ? len : SSL_read(ssl, buf, len);
}

static ssize_t flood_send(int fd, const void *buf, size_t len, int flags)
{
    return atomic_load(&floods) ? (ssize_t)len : send(fd, buf, len, flags);
}

#define poll     count_poll
#define SSL_read flood_read
#define send     flood_send
#include "services/vmm/drivers/docker_tls.c"
#undef poll
#undef SSL_read
#undef send
#include "services/vmm/sync.c"

#include <arpa/inet.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>

#include <cmocka.h>

#define DEAD_MS 400
#define MUCH    (6 << 20)

static char dir[] = "/tmp/milonga-tls.XXXXXX";
static char cert[64], key[64], sock[64];
static struct config_docker_host spec = {
    .at = {.name = (char[]){"t"}, .address = (char[]){"127.0.0.1"}, .key = key},
    .scheme = (char[]){"tcp"},
    .ca = cert,
    .cert = cert};
static int listener;

/* One certificate is the authority, the server's and ours. */
static void make_certificate(void)
{
    EVP_PKEY *pair = EVP_EC_gen("P-256");
    X509 *x = X509_new();
    X509_NAME *name = X509_get_subject_name(x);
    X509_EXTENSION *san = X509V3_EXT_conf_nid(NULL, NULL, NID_subject_alt_name, "IP:127.0.0.1");

    X509_set_version(x, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(x), 1);
    X509_gmtime_adj(X509_getm_notBefore(x), -60);
    X509_gmtime_adj(X509_getm_notAfter(x), 3600);
    X509_set_pubkey(x, pair);
    X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, (const unsigned char *)"t", -1, -1, 0);
    X509_set_issuer_name(x, name);
    X509_add_ext(x, san, -1);
    X509_sign(x, pair, EVP_sha256());
    snprintf(cert, sizeof(cert), "%s/cert.pem", dir);
    snprintf(key, sizeof(key), "%s/key.pem", dir);
    FILE *f = fopen(cert, "w"), *k = fopen(key, "w");
    assert_non_null(f);
    assert_non_null(k);
    PEM_write_X509(f, x);
    PEM_write_PrivateKey(k, pair, NULL, NULL, 0, NULL, NULL);
    fclose(f);
    fclose(k);
    X509_EXTENSION_free(san);
    X509_free(x);
    EVP_PKEY_free(pair);
}

static int begin(void **state)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(a);

    (void)state;
    alarm(60);
    signal(SIGPIPE, SIG_IGN);
    assert_non_null(mkdtemp(dir));
    make_certificate();
    snprintf(sock, sizeof(sock), "%s/s", dir);
    listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(listener, (struct sockaddr *)&a, sizeof(a)), 0);
    assert_int_equal(listen(listener, 8), 0);
    assert_int_equal(getsockname(listener, (struct sockaddr *)&a, &len), 0);
    spec.at.port = ntohs(a.sin_port);
    return 0;
}

static int end(void **state)
{
    (void)state;
    close(listener);
    unlink(cert);
    unlink(key);
    return rmdir(dir); /* the socket is gone by now */
}

/* ---- the other side ---- */

static SSL *serve_one(SSL_CTX *ctx)
{
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC), room = 1 << 20;
    SSL *ssl = SSL_new(ctx);

    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &room, sizeof(room));
    SSL_set_fd(ssl, fd);
    SSL_accept(ssl);
    return ssl;
}

enum role { READS_LATE, WAITS, IS_RESET };

struct server {
    enum role role;
    pthread_t thread;
    atomic_size_t got;
};

static void play(struct server *s, SSL *ssl)
{
    static char piece[16384];
    const struct linger reset = {.l_onoff = 1};
    int n;

    switch (s->role) {
    case READS_LATE:
        poll(NULL, 0, 4 * DEAD_MS);
        while (atomic_load(&s->got) < MUCH && (n = SSL_read(ssl, piece, sizeof(piece))) > 0)
            atomic_fetch_add(&s->got, (size_t)n);
        break;
    case WAITS:
        while ((n = SSL_read(ssl, piece, sizeof(piece))) > 0)
            atomic_fetch_add(&s->got, (size_t)n);
        break;
    case IS_RESET: /* with more on its way than the near end takes */
        for (int i = 0; i < 30; i++)
            if (SSL_write(ssl, piece, sizeof(piece)) <= 0)
                break;
        poll(NULL, 0, 500); /* the near end is full now */
        setsockopt(SSL_get_fd(ssl), SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
        break;
    }
}

static void *server_main(void *arg)
{
    struct server *s = arg;
    SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());

    SSL_CTX_use_certificate_chain_file(ctx, cert);
    SSL_CTX_use_PrivateKey_file(ctx, key, SSL_FILETYPE_PEM);
    hang_up(serve_one(ctx)); /* relay_start's proof */
    SSL *ssl = serve_one(ctx);
    play(s, ssl);
    hang_up(ssl);
    SSL_CTX_free(ctx);
    return NULL;
}

static struct relay *start(struct server *s, int *ret_near)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    struct error err = ERROR_INIT;
    struct relay *r = NULL;

    assert_int_equal(pthread_create(&s->thread, NULL, server_main, s), 0);
    if (relay_start(&spec, sock, DEAD_MS, clock_mono_ms() + 20000, -1, &r, &err) < 0)
        fail_msg("%s", err.msg);
    snprintf(a.sun_path, sizeof(a.sun_path), "%s", sock);
    *ret_near = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(*ret_near, (struct sockaddr *)&a, sizeof(a)), 0);
    return r;
}

/* ---- tests ---- */

static void test_a_slow_reader_is_not_a_dead_one(void **state)
{
    static char piece[16384];
    struct server s = {.role = READS_LATE};
    int near;
    size_t sent = 0;

    (void)state;
    struct relay *r = start(&s, &near);
    while (sent < MUCH) {
        ssize_t n = send(near, piece, sizeof(piece), MSG_NOSIGNAL);
        assert_true(n > 0);
        sent += (size_t)n;
    }
    pthread_join(s.thread, NULL);
    assert_true(atomic_load(&s.got) >= MUCH);
    close(near);
    relay_stop(r);
}

static void test_it_ends_while_bytes_flow(void **state)
{
    struct server s = {.role = WAITS};
    int near;

    (void)state;
    struct relay *r = start(&s, &near);
    atomic_store(&floods, true);
    assert_int_equal(write(near, "x", 1), 1); /* wakes it */
    while (atomic_load(&s.got) == 0)
        poll(NULL, 0, 1);
    relay_stop(r); /* or the alarm */
    atomic_store(&floods, false);
    pthread_join(s.thread, NULL);
    close(near);
}

/* Nobody reads here, and there nobody is any more: that is to be waited out, not looked at again
 * and again. */
static void test_a_peer_that_is_gone_costs_no_time(void **state)
{
    struct server s = {.role = IS_RESET};
    int near;

    (void)state;
    struct relay *r = start(&s, &near);
    poll(NULL, 0,
         300); /* our socket is full by now, and that server waits in SSL_write, or is gone */
    close(listener);
    unsigned before = atomic_load(&polls);
    poll(NULL, 0, 1000);
    assert_true(atomic_load(&polls) - before < 100);
    relay_stop(r);
    close(near);
}

static void test_a_stop_ends_the_look_up(void **state)
{
    struct config_docker_host elsewhere = spec;
    struct error err = ERROR_INIT;
    struct relay *r = NULL;
    int stop = event_new();

    (void)state;
    elsewhere.at.address = (char[]){"engine.invalid"};
    event_signal(stop);
    assert_int_equal(
        relay_start(&elsewhere, sock, DEAD_MS, clock_mono_ms() + 20000, stop, &r, &err),
        -ECANCELED);
    close(stop);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_slow_reader_is_not_a_dead_one),
        cmocka_unit_test(test_it_ends_while_bytes_flow),
        cmocka_unit_test(test_a_stop_ends_the_look_up),
        cmocka_unit_test(test_a_peer_that_is_gone_costs_no_time),
    };

    return cmocka_run_group_tests(tests, begin, end);
}
