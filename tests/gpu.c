/* `make check-gpu`: every check on every GPU there is. Needs nothing but the
 * driver and the C library, so it may be carried to a machine with a GPU. */
#include "config.h"

#include <stdio.h>

#include "tests/gpu_checks.h"

typedef struct tally {
    unsigned passed, failed;
} tally_t;

static void check_all(const char *name, tally_t *tally)
{
    coterie_device_t *device = NULL;

    for (const gpu_check_t *check = gpu_checks; check->name != NULL; check++) {
        bool held = false;

        if (coterie_device_open(name, &device) == COTERIE_OK)
            held = check->holds(device);
        else
            fprintf(stderr, "%s\n", coterie_last_error());
        printf("[%s] %s: %s\n", held ? "PASS" : "FAIL", name, check->name);
        tally->passed += held;
        tally->failed += !held;
        coterie_device_close(device);
        device = NULL;
    }
}

int main(void)
{
    const uint32_t count = coterie_device_count();
    tally_t tally = {0, 0};
    unsigned skipped = 0;

    for (uint32_t i = 0; i < count; i++) {
        coterie_device_about_t about = {.size = sizeof(about)};
        char name[16];

        if (coterie_device_describe(i, &about) == COTERIE_OK)
            printf("cuda:%u: %s, %s\n", i, about.name, about.architecture);
        snprintf(name, sizeof(name), "cuda:%u", i);
        check_all(name, &tally);
    }
    for (const gpu_check_t *check = gpu_checks;
         count == 0 && check->name != NULL; check++, skipped++)
        printf("[SKIP] %s: %s\n", check->name, coterie_last_error());
    printf("%u passed, %u failed, %u skipped\n", tally.passed, tally.failed,
           skipped);
    return tally.failed > 0;
}
