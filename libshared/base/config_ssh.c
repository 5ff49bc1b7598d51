#include "base/config_private.h"
#include "base/mem.h"
#include "base/name.h"

#include <string.h>

/* The lines of ssh_host: NAME [USER@]ADDRESS[:PORT] [option=value ...], a machine each; and those
 * of docker_host: NAME URL [option=value ...], an engine each. */

#define SLOTS_MAX 64

struct entry {
    struct config_load *l;
    const struct config_line *line;
    struct config_ssh_host host;
    struct config_docker_host docker; /* of docker_host: what it has beside that */
    bool bad;
};

/* The first one of a line: what follows may be its consequence. */
static void problem(struct entry *e, const char *reason)
{
    if (e->bad)
        return;
    config_problem(e->l, e->line->key, &e->line->origin, e->line->text, "%s", reason);
    e->bad = true;
}

static bool only(const char *text, const char *more)
{
    for (const char *p = text; *p; p++)
        if (!(*p >= 'a' && *p <= 'z') && !(*p >= 'A' && *p <= 'Z') && !(*p >= '0' && *p <= '9') &&
            !strchr(more, *p))
            return false;
    return text[0] != '\0' && text[0] != '-';
}

static int64_t whole(const char *text, int64_t most)
{
    int64_t v = 0;

    if (*text == '\0')
        return -1;
    for (; *text; text++) {
        if (*text < '0' || *text > '9' || v > most)
            return -1;
        v = v * 10 + (*text - '0');
    }
    return v <= most ? v : -1;
}

/* ---- [USER@]ADDRESS[:PORT] ---- */

static void take_port(struct entry *e, const char *text)
{
    e->host.port = (int)whole(text, 65535);
    if (e->host.port <= 0)
        problem(e, "has a port that is not one; give 1 to 65535 behind the colon");
}

static void take_address(struct entry *e, char *text)
{
    char *at = strrchr(text, '@'), *address = at ? at + 1 : text, *end;

    if (at) {
        *at = '\0';
        if (!only(text, "_.-"))
            problem(e, "has a user that is not an account's name; write USER@ADDRESS");
        config_replace(&e->host.user, xstrdup(text));
    }
    if (address[0] == '[') {
        address++;
        end = strchr(address, ']');
        if (!end || (end[1] != '\0' && end[1] != ':')) {
            problem(e, "has an address with one bracket; write [ADDRESS] or [ADDRESS]:PORT");
            return;
        }
        if (end[1] == ':')
            take_port(e, end + 2);
        *end = '\0';
    } else if ((end = strchr(address, ':')) != NULL && !strchr(end + 1, ':')) {
        *end = '\0';
        take_port(e, end + 1);
    }
    if (!only(address, "_.-:%"))
        problem(e, "has no address that ssh could take; write [USER@]ADDRESS[:PORT]");
    config_replace(&e->host.address, xstrdup(address));
}

/* ---- options ---- */

static void take_slots(struct entry *e, const char *value)
{
    e->host.slots = (int)whole(value, SLOTS_MAX);
    if (e->host.slots <= 0)
        problem(e, "has slots that are no number; give slots=1 to slots=64");
}

static void take_list(struct entry *e, const char *value, char **to, bool labels)
{
    cleanup_free char *copy = xstrdup(value);
    char *save = NULL;

    for (char *w = strtok_r(copy, ",", &save); w; w = strtok_r(NULL, ",", &save))
        if (labels ? name_check_label(w, strlen(w)) : name_check_image(w, strlen(w)))
            problem(e, labels ? "has a label that is none; use a-z, 0-9, _ . = and -, and commas"
                              : "has an image name that is none; put commas between names");
    config_replace(to, xstrdup(value));
}

static void take_mode(struct entry *e, const char *value)
{
    static const char *const modes[] = {"direct", "docker", "podman"};

    for (size_t i = 0; i < ARRAY_SIZE(modes); i++)
        if (strcmp(value, modes[i]) == 0) {
            config_replace(&e->host.mode, xstrdup(value));
            return;
        }
    problem(e, "has a mode that is none; give mode=direct, mode=docker or mode=podman");
}

static void take_path(struct entry *e, const char *value, char **to)
{
    if (value[0] != '/')
        problem(e, "has a path that is not absolute; begin it with /");
    config_replace(to, xstrdup(value));
}

static void take_exclusive(struct entry *e, const char *value)
{
    if (strcmp(value, "yes") != 0 && strcmp(value, "no") != 0)
        problem(e, "says neither exclusive=yes nor exclusive=no; give one of them");
    e->host.exclusive = strcmp(value, "yes") == 0;
}

/* Those of both. */
static bool take_common(struct entry *e, const char *word, const char *value)
{
    if (strcmp(word, "slots") == 0)
        take_slots(e, value);
    else if (strcmp(word, "labels") == 0)
        take_list(e, value, &e->host.labels, true);
    else if (strcmp(word, "key") == 0)
        take_path(e, value, &e->host.key);
    else
        return false;
    return true;
}

static void take_docker_option(struct entry *e, const char *word, const char *value)
{
    if (take_common(e, word, value))
        return;
    if (strcmp(word, "ca") == 0)
        take_path(e, value, &e->docker.ca);
    else if (strcmp(word, "cert") == 0)
        take_path(e, value, &e->docker.cert);
    else
        problem(e, "has an unknown option; those are slots, labels, ca, cert and key");
}

static void take_ssh_option(struct entry *e, const char *word, const char *value)
{
    if (take_common(e, word, value))
        return;
    if (strcmp(word, "images") == 0)
        take_list(e, value, &e->host.images, false);
    else if (strcmp(word, "mode") == 0)
        take_mode(e, value);
    else if (strcmp(word, "dir") == 0)
        take_path(e, value, &e->host.dir);
    else if (strcmp(word, "exclusive") == 0)
        take_exclusive(e, value);
    else
        problem(e, "has an unknown option; those are slots, labels, exclusive, mode, images, key "
                   "and dir");
}

static bool is_docker(const struct entry *e)
{
    return strcmp(e->line->key->name, "docker_host") == 0;
}

static void take_option(struct entry *e, char *word)
{
    char *value = strchr(word, '=');

    if (!value) {
        problem(e, "has a word that is no option; write option=value with no blank in it");
        return;
    }
    *value++ = '\0';
    (is_docker(e) ? take_docker_option : take_ssh_option)(e, word, value);
}

/* ---- an engine's URL ---- */

#define DOCKER_SOCKET "/var/run/docker.sock"
#define DOCKER_PORT   2376 /* with TLS */

static void take_unix_url(struct entry *e, char *rest)
{
    if (rest[0] != '/' || rest[1] == '\0')
        problem(e, "has no absolute path of a socket; write unix:///SOCKET");
    config_replace(&e->docker.socket, xstrdup(rest));
}

static void take_ssh_url(struct entry *e, char *rest)
{
    char *slash = strchr(rest, '/');
    bool given = slash && slash[1] != '\0';

    config_replace(&e->docker.socket, xstrdup(given ? slash : DOCKER_SOCKET));
    if (slash)
        *slash = '\0';
    take_address(e, rest);
}

static void take_tcp_url(struct entry *e, char *rest)
{
    char *slash = strchr(rest, '/');

    if (slash) {
        problem(e, "has a path behind the address, which tcp has not; leave it out");
        *slash = '\0';
    }
    take_address(e, rest);
    if (e->host.user[0])
        problem(e, "has a user, which tcp has not; our certificate says who we are");
    if (e->host.port == 0)
        e->host.port = DOCKER_PORT;
}

static void take_url(struct entry *e, char *url)
{
    static const struct {
        const char *scheme;
        void (*take)(struct entry *e, char *rest);
    } kinds[] = {{"tcp", take_tcp_url}, {"ssh", take_ssh_url}, {"unix", take_unix_url}};
    char *sep = strstr(url, "://");

    if (sep)
        *sep = '\0';
    for (size_t i = 0; sep && i < ARRAY_SIZE(kinds); i++)
        if (strcmp(url, kinds[i].scheme) == 0) {
            config_replace(&e->docker.scheme, xstrdup(url));
            kinds[i].take(e, sep + 3);
            return;
        }
    problem(e, "has no URL of an engine; write tcp://ADDRESS[:PORT], "
               "ssh://[USER@]ADDRESS[:PORT][/SOCKET] or unix:///SOCKET");
}

/* What the host does not say itself is as it is said for all; a connection without certificates on
 * both sides would give the machine to whoever asks. */
static void take_certificates(struct entry *e)
{
    const struct config *c = e->l->config;
    char **have[] = {&e->docker.ca, &e->docker.cert, &e->host.key};
    const char *all[] = {c->docker_ca, c->docker_cert, c->docker_key};
    static const char *const missing[] = {
        "has no certificates to check the engine's by; give ca=/path, or docker_ca for all",
        "has no certificate of our own to show; give cert=/path, or docker_cert for all",
        "has no private key of our certificate; give key=/path, or docker_key for all"};

    for (size_t i = 0; i < ARRAY_SIZE(have); i++) {
        if (!(*have[i])[0])
            config_replace(have[i], xstrdup(all[i]));
        if (!(*have[i])[0])
            problem(e, missing[i]);
    }
}

/* What is written alike; what is one engine all the same shows when it is connected to. */
static bool same_engine(const struct config_docker_host *h, const struct entry *e)
{
    return strcmp(h->scheme, e->docker.scheme) == 0 && strcmp(h->socket, e->docker.socket) == 0 &&
           strcmp(h->at.address, e->host.address) == 0 && h->at.port == e->host.port;
}

static void check_docker(struct entry *e)
{
    const struct config *c = e->l->config;

    if (strcmp(e->docker.scheme, "tcp") == 0)
        take_certificates(e);
    else if (e->docker.ca[0] || e->docker.cert[0])
        problem(e, "has ca or cert, which only tcp:// uses; leave them out");
    if (strcmp(e->docker.scheme, "unix") == 0 && e->host.key[0])
        problem(e, "has a key, which a socket of this machine does not need; leave it out");
    for (size_t i = 0; i < c->docker_host_ct; i++)
        if (strcmp(c->docker_hosts[i].at.name, e->host.name) == 0)
            problem(e, "has the name of another host; give each a name of its own");
        else if (same_engine(&c->docker_hosts[i], e))
            problem(e, "has the engine of another line; remove one of the two");
}

/* ---- the whole ---- */

static void docker_done(struct config_docker_host *h)
{
    free(h->scheme);
    free(h->socket);
    free(h->ca);
    free(h->cert);
}

static void host_done(struct config_ssh_host *h)
{
    free(h->name);
    free(h->user);
    free(h->address);
    free(h->key);
    free(h->labels);
    free(h->mode);
    free(h->images);
    free(h->dir);
}

static void check_together(struct entry *e)
{
    const struct config *c = e->l->config;

    if (e->host.exclusive && e->host.slots > 1)
        problem(e, "is exclusive, so one job at a time, and has more slots; leave one of them out");
    if (strcmp(e->host.mode, "direct") != 0 && e->host.images[0])
        problem(e, "names images, which the host's engine tells by itself; leave images out");
    for (size_t i = 0; i < c->ssh_host_ct; i++)
        if (strcmp(c->ssh_hosts[i].name, e->host.name) == 0)
            problem(e, "has the name of another host; give each a name of its own");
}

/* Takes e's. */
static void keep(struct entry *e)
{
    struct config *c = e->l->config;

    if (e->host.slots <= 0)
        e->host.slots = 1;
    if (e->bad) {
        host_done(&e->host);
        docker_done(&e->docker);
    } else if (is_docker(e)) {
        size_t ct = c->docker_host_ct++;
        c->docker_hosts = xrealloc(c->docker_hosts, (ct + 1) * sizeof(*c->docker_hosts));
        c->docker_hosts[ct] = e->docker;
        c->docker_hosts[ct].at = e->host;
    } else {
        docker_done(&e->docker);
        c->ssh_hosts = xrealloc(c->ssh_hosts, (c->ssh_host_ct + 1) * sizeof(*c->ssh_hosts));
        c->ssh_hosts[c->ssh_host_ct++] = e->host;
    }
}

static void take_line(struct config_load *l, const struct config_line *line)
{
    struct entry e = {.l = l, .line = line};
    cleanup_free char *text = xstrdup(line->text);
    char *save = NULL, *word = strtok_r(text, " \t", &save);
    bool docker = is_docker(&e);

    e.host = (struct config_ssh_host){.user = xstrdup(""),
                                      .address = xstrdup(""),
                                      .key = xstrdup(""),
                                      .labels = xstrdup(""),
                                      .mode = xstrdup("direct"),
                                      .images = xstrdup(""),
                                      .dir = xstrdup(l->config->ssh_dir),
                                      .slots = 0};
    e.docker = (struct config_docker_host){
        .scheme = xstrdup(""), .socket = xstrdup(""), .ca = xstrdup(""), .cert = xstrdup("")};
    if (!word || !only(word, "_.-") || strlen(word) > 63)
        problem(&e, docker ? "does not begin with a name; write NAME URL option=value ..."
                           : "does not begin with a name; write NAME [USER@]ADDRESS[:PORT] "
                             "option=value ...");
    e.host.name = xstrdup(word ? word : "");
    word = strtok_r(NULL, " \t", &save);
    if (!word)
        problem(&e, docker ? "has no URL; write NAME URL option=value ..."
                           : "has no address; write NAME [USER@]ADDRESS[:PORT] option=value ...");
    else
        (docker ? take_url : take_address)(&e, word);
    while ((word = strtok_r(NULL, " \t", &save)) != NULL)
        take_option(&e, word);
    (docker ? check_docker : check_together)(&e);
    keep(&e);
}

static void want_host(struct config_load *l, const char *name, size_t ct, const char *reason)
{
    const struct config_key *driver = config_key_get("driver");

    if (strcmp(l->config->driver, name) == 0 && ct == 0)
        config_problem(l, driver, config_origin_of(l, driver), name, "%s", reason);
}

void config_hosts_apply(struct config_load *l)
{
    size_t docker_ct = 0;

    for (size_t i = 0; i < l->line_ct; i++) {
        take_line(l, &l->lines[i]);
        docker_ct += strcmp(l->lines[i].key->name, "docker_host") == 0;
    }
    want_host(l, "ssh", l->line_ct - docker_ct,
              "has no host; add a line ssh_host = NAME [USER@]ADDRESS for each");
    want_host(l, "docker-hosts", docker_ct,
              "has no host; add a line docker_host = NAME URL for each engine");
}

void config_hosts_done(struct config *c)
{
    for (size_t i = 0; i < c->ssh_host_ct; i++)
        host_done(&c->ssh_hosts[i]);
    free(c->ssh_hosts);
    for (size_t i = 0; i < c->docker_host_ct; i++) {
        host_done(&c->docker_hosts[i].at);
        docker_done(&c->docker_hosts[i]);
    }
    free(c->docker_hosts);
}
