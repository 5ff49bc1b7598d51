/* An answer of EC2, and what is read out of it. */
#include "services/vmm/drivers/ec2_xml.c"

#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct xml *x = NULL;
    size_t sum = 0;

    if (xml_parse((const char *)data, size, &x, NULL) < 0)
        return 0;
    for (const struct xml *i = xml_find(x, "reservationSet/item"); i; i = xml_next(i))
        sum += xml_text(i, "instancesSet/item/instanceId")[0] != '\0';
    for (const struct xml *i = x->first; i; i = i->next)
        sum += xml_text(i, "a")[0] + (i->up != x);
    xml_free(x);
    return sum == SIZE_MAX;
}
