#ifndef MILONGA_DOCKER_TUNNEL_H
#define MILONGA_DOCKER_TUNNEL_H

/* A way to an engine on another host: a unix socket of ours, behind which is its API. So whatever
 * lies between, an engine is spoken to as the one of this machine is (docker_http.h), the attached
 * streams of machines included.
 *
 *     tcp://    a thread that takes connections on the socket, and one for each that carries its
 *               bytes over TLS: our certificate shown, the engine's checked by the CA and the name
 *     ssh://    OpenSSH's client, with the socket forwarded (-L) to the one over there
 *     unix://   the socket itself
 *
 * One thread opens, closes and asks; connections come from any. */

#include "base/config.h"
#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

struct tunnel;

/* `dir`: for the socket; 0700, since whoever may connect there is root on the host. Borrows all. */
struct tunnel *tunnel_new(const struct config *cfg, const struct config_docker_host *spec,
                          const char *dir);
void tunnel_free(struct tunnel *t); /* closed before */
/* Where the engine is found while it is open, "unix:///..."; lives as long as t. */
const char *tunnel_url(const struct tunnel *t);

/* Logs in, or does a handshake, as a proof. Reads files of keys and certificates anew.
 * ERR_TEMPORARY whatever the reason, with a sentence that says what is to be mended. */
int tunnel_open(struct tunnel *t, int64_t deadline, int stop_fd, struct error *err);
/* Ends all that goes through it; nothing of it is left when this returns. */
void tunnel_close(struct tunnel *t);

/* Readable when the tunnel has something to say or has ended; -1 when it never does. */
int tunnel_fd(const struct tunnel *t);
/* To be called when it is. False when it has ended. */
bool tunnel_lives(struct tunnel *t);
/* Why connections through it came to nothing, as far as it knows; "" if it does not. Since it was
 * opened. */
void tunnel_why(struct tunnel *t, char *out, size_t size);

/* ---- docker_tls.c: the form of tcp:// ---- */

struct relay;
int relay_start(const struct config_docker_host *spec, const char *socket, int64_t dead_ms,
                int64_t deadline, int stop_fd, struct relay **ret, struct error *err);
void relay_stop(struct relay *r); /* NULL is fine */
void relay_why(struct relay *r, char *out, size_t size);

#endif
