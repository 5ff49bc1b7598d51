#ifndef MILONGA_API_CONN_H
#define MILONGA_API_CONN_H

/* Connections of one loop, and what h2o does not do for them. h2o 2.2 holds a whole body before any
 * handler runs, answers "Expect: 100-continue" by itself, has one time limit for head and body
 * together and none for writing. So a guard stands between the socket and h2o: it takes the
 * socket's read callback, looks at the bytes first and then calls h2o's.
 *
 *          bytes          head judged        all has come
 *   idle ----------> head -----------> body ------------> busy (h2o, handler, answer)
 *    ^                 |                 |                  |
 *    |                 +--> refused <----+                  |
 *    +------------------- h2o reads again ------------------+
 *
 * - judged: route, method, key, framing (two lengths, or a length and chunks), size for that route,
 *   room among the bodies in flight. A body that is small or there already is the handler's;
 * - refused: our answer is written, what still comes is thrown away for LINGER_MS so that the
 *   client can read the answer, then the connection is closed;
 * - the sweep, each second: heads that take over HEAD_MS, bodies and answers that in a window of
 *   GRACE_MS are slower than slow_body_bytes_s, and idle connections are cut. */

#include "base/err.h"
#include "services/api/server.h"

/* Of `listen_fd`, which becomes its own; accepts once it is open. */
struct conns *conns_new(struct loop *l, int listen_fd);
void conns_open(struct conns *cs);

/* After each turn of the loop: takes the read callbacks again that h2o has set anew. */
void conns_turn(struct conns *cs);

/* No new connections; idle ones are closed, others after their answer. */
void conns_drain(struct conns *cs);
unsigned conns_count(const struct conns *cs);

/* The handler was called for this connection's request: all of it has come. */
void conn_serve(h2o_req_t *req);

#endif
