#include "base/config_private.h"
#include "base/mem.h"
#include "base/name.h"

#include <string.h>

/* The lines of ssh_host: NAME [USER@]ADDRESS[:PORT] [option=value ...], a machine each. */

#define SLOTS_MAX 64

struct entry {
    struct config_load *l;
    const struct config_line *line;
    struct config_ssh_host host;
    bool bad;
};

/* The first one of a line: what follows may be its consequence. */
static void problem(struct entry *e, const char *reason)
{
    if (e->bad)
        return;
    config_problem(e->l, config_key_get("ssh_host"), &e->line->origin, e->line->text, "%s", reason);
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

static void take_option(struct entry *e, char *word)
{
    char *value = strchr(word, '=');

    if (!value) {
        problem(e, "has a word that is no option; write option=value with no blank in it");
        return;
    }
    *value++ = '\0';
    if (strcmp(word, "slots") == 0)
        take_slots(e, value);
    else if (strcmp(word, "labels") == 0)
        take_list(e, value, &e->host.labels, true);
    else if (strcmp(word, "images") == 0)
        take_list(e, value, &e->host.images, false);
    else if (strcmp(word, "mode") == 0)
        take_mode(e, value);
    else if (strcmp(word, "key") == 0)
        take_path(e, value, &e->host.key);
    else if (strcmp(word, "dir") == 0)
        take_path(e, value, &e->host.dir);
    else if (strcmp(word, "exclusive") == 0)
        take_exclusive(e, value);
    else
        problem(e, "has an unknown option; those are slots, labels, exclusive, mode, images, key "
                   "and dir");
}

/* ---- the whole ---- */

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

static void take_line(struct config_load *l, const struct config_line *line)
{
    struct entry e = {.l = l, .line = line};
    struct config *c = l->config;
    cleanup_free char *text = xstrdup(line->text);
    char *save = NULL, *word = strtok_r(text, " \t", &save);

    e.host = (struct config_ssh_host){.user = xstrdup(""),
                                      .address = xstrdup(""),
                                      .key = xstrdup(""),
                                      .labels = xstrdup(""),
                                      .mode = xstrdup("direct"),
                                      .images = xstrdup(""),
                                      .dir = xstrdup(c->ssh_dir),
                                      .slots = 0};
    if (!word || !only(word, "_.-") || strlen(word) > 63)
        problem(&e,
                "does not begin with a name; write NAME [USER@]ADDRESS[:PORT] option=value ...");
    e.host.name = xstrdup(word ? word : "");
    word = strtok_r(NULL, " \t", &save);
    if (!word)
        problem(&e, "has no address; write NAME [USER@]ADDRESS[:PORT] option=value ...");
    else
        take_address(&e, word);
    while ((word = strtok_r(NULL, " \t", &save)) != NULL)
        take_option(&e, word);
    check_together(&e);
    if (e.host.slots <= 0)
        e.host.slots = 1;
    if (e.bad) {
        host_done(&e.host);
        return;
    }
    c->ssh_hosts = xrealloc(c->ssh_hosts, (c->ssh_host_ct + 1) * sizeof(*c->ssh_hosts));
    c->ssh_hosts[c->ssh_host_ct++] = e.host;
}

void config_ssh_apply(struct config_load *l)
{
    const struct config_key *driver = config_key_get("driver");

    for (size_t i = 0; i < l->line_ct; i++)
        take_line(l, &l->lines[i]);
    if (strcmp(l->config->driver, "ssh") == 0 && l->line_ct == 0)
        config_problem(l, driver, config_origin_of(l, driver), l->config->driver,
                       "has no host; add a line ssh_host = NAME [USER@]ADDRESS for each");
}

void config_ssh_done(struct config *c)
{
    for (size_t i = 0; i < c->ssh_host_ct; i++)
        host_done(&c->ssh_hosts[i]);
    free(c->ssh_hosts);
}
