/* A student's handin: all right but for sort, which drops equal values. */
#include "list.h"

#include <stdlib.h>

struct node *list_insert(struct node *head, int value)
{
    struct node *x = malloc(sizeof(*x));

    if (!x)
        return head;
    x->value = value;
    x->next = head;
    return x;
}

struct node *list_reverse(struct node *head)
{
    struct node *done = NULL;

    while (head) {
        struct node *next = head->next;
        head->next = done;
        done = head;
        head = next;
    }
    return done;
}

struct node *list_sort(struct node *head)
{
    struct node *sorted = NULL;

    while (head) {
        struct node *x = head, **at = &sorted;
        head = head->next;
        while (*at && (*at)->value < x->value)
            at = &(*at)->next;
        if (*at && (*at)->value == x->value)
            continue;
        x->next = *at;
        *at = x;
    }
    return sorted;
}
