#ifndef MILONGA_DISPATCHER_IDS_H
#define MILONGA_DISPATCHER_IDS_H

/* Keeps ids and generation ahead (generation.h), on a thread of its own: a store that does not
 * answer, or a record that is damaged, holds up nothing but new ids. */

struct dispatcher;
struct ids;

struct ids *ids_new(struct dispatcher *d);
void ids_start(struct ids *i);
void ids_stop(struct ids *i);
void ids_free(struct ids *i);

/* From any thread: they may run short, or Redis may have lost its past. */
void ids_look(struct ids *i);

#endif
