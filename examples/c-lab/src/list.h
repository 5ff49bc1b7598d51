#ifndef LIST_H
#define LIST_H

struct node {
    int value;
    struct node *next;
};

/* All take the first node, NULL for the empty list, and return the new first node. */
struct node *list_insert(struct node *head, int value); /* in front */
struct node *list_reverse(struct node *head);
struct node *list_sort(struct node *head); /* rising */

#endif
