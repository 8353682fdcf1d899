#ifndef COTERIE_TOOLS_PROMPTS_H
#define COTERIE_TOOLS_PROMPTS_H
/* The sequences of a run: prompts as given, with room for what follows. */
#include "tools/command.h"

typedef struct prompts {
    uint32_t count;
    uint32_t *length; /* [count]: tokens of each prompt */
    uint64_t *start;  /* [count + 1]: first position of each, over all */
    int32_t *tokens;  /* [start[count]]; those after a prompt are -1 */
} prompts_t;

/* A vocabulary of this size is taken for bytes; others need ids. */
enum { BYTE_VOCAB = 256 };

/* Reads --prompt, --prompt-file, --prompt-lines, --prompt-ids and
 * --prompt-ids-file, in the order given.
 * @param room  tokens that will be added to each */
coterie_status_t prompts_create(const argument_list_t *list, uint32_t vocab,
                                uint32_t room, prompts_t *prompts);

void prompts_destroy(prompts_t *prompts);

#endif
