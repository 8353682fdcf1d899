#include "config.h"

#include <stdio.h>
#include <string.h>

#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include <coterie/placement.h>

#include "tests/trace_files.h"

TestSuite(formats, .init = files_make, .fini = files_remove);

static const char *path(void)
{
    return file_path("placement");
}

static void expect_file(const char *wanted)
{
    char text[1024] = {0};
    FILE *stream = fopen(path(), "r");

    cr_assert(ne(ptr, stream, NULL));
    cr_assert(lt(sz, fread(text, 1, sizeof(text), stream), sizeof(text)));
    fclose(stream);
    cr_expect(eq(str, text, (char *)wanted));
}

static coterie_placement_t *make(const coterie_placement_options_t *options)
{
    coterie_placement_t *placement = NULL;

    cr_assert(
        eq(int, COTERIE_OK, coterie_placement_create(options, &placement)),
        "%s", coterie_last_error());
    return placement;
}

/* Two layers, four experts on two ranks of two slots. */
static const int16_t four_slots[] = {3, 0, 1, 2, 0, 1, 2, 3};

static coterie_placement_t *four_experts(void)
{
    coterie_placement_options_t options = COTERIE_PLACEMENT_OPTIONS_INIT;

    options.layer_count = 2;
    options.expert_count = 4;
    options.rank_count = 2;
    options.slot_expert = four_slots;
    return make(&options);
}

/* One layer, three experts on two ranks of two slots: 1 has a replica. */
static const int16_t replica_slots[] = {0, 1, 2, 1};

static coterie_placement_t *with_replica(void)
{
    coterie_placement_options_t options = COTERIE_PLACEMENT_OPTIONS_INIT;

    options.layer_count = 1;
    options.expert_count = 3;
    options.rank_count = 2;
    options.slot_count = 4;
    options.slot_expert = replica_slots;
    return make(&options);
}

static void expect_same_slots(const coterie_placement_t *has,
                              const coterie_placement_t *wanted)
{
    coterie_placement_options_t a, b;

    coterie_placement_view(has, &a);
    coterie_placement_view(wanted, &b);
    cr_assert(eq(u32, a.layer_count, b.layer_count));
    cr_assert(eq(u32, a.expert_count, b.expert_count));
    cr_assert(eq(u32, a.rank_count, b.rank_count));
    cr_assert(eq(u32, a.slot_count, b.slot_count));
    cr_expect(zero(memcmp(a.slot_rank, b.slot_rank, a.slot_count * 2)));
    cr_expect(zero(memcmp(a.slot_expert, b.slot_expert,
                          (size_t)a.layer_count * a.slot_count * 2)));
}

/* Writes, expects that text, and reads the same slots back. */
static void expect_round_trip(coterie_placement_t *placement,
                              coterie_placement_format_t format,
                              const char *text)
{
    coterie_placement_t *back = NULL;
    coterie_status_t status;

    status = coterie_placement_write(placement, path(), format, 0);
    cr_assert(eq(int, COTERIE_OK, status), "%s", coterie_last_error());
    expect_file(text);
    status = coterie_placement_read(path(), 2, &back);
    cr_assert(eq(int, COTERIE_OK, status), "%s", coterie_last_error());
    expect_same_slots(back, placement);
    coterie_placement_destroy(back);
    coterie_placement_destroy(placement);
}

Test(formats, sglang_has_the_map_alone)
{
    expect_round_trip(with_replica(), COTERIE_FORMAT_SGLANG,
                      "{\"physical_to_logical_map\":[[0,1,2,1]]}\n");
}

Test(formats, vllm_has_a_list_for_each_layer)
{
    expect_round_trip(four_experts(), COTERIE_FORMAT_VLLM,
                      "[[3,0,1,2],[0,1,2,3]]\n");
}

Test(formats, ascend_has_devices_in_layers)
{
    expect_round_trip(
        with_replica(), COTERIE_FORMAT_ASCEND,
        "{\"moe_layer_count\":1,\"layer_list\":[{\"layer_id\":0,"
        "\"device_count\":2,\"device_list\":[{\"device_id\":0,"
        "\"device_expert\":[0,1]},{\"device_id\":1,\"device_expert\":[2,1]}]"
        "}]}\n");
}

Test(formats, tensorrt_has_yaml)
{
    expect_round_trip(four_experts(), COTERIE_FORMAT_TENSORRT,
                      "num_slots: 4\ninitial_global_assignments:\n"
                      "  0: [3, 0, 1, 2]\n  1: [0, 1, 2, 3]\n"
                      "layer_updates_per_iter: 0\n");
}

Test(formats, exflow_has_a_line_for_each_expert)
{
    /* The order of a rank's slots is lost, so they are in order here. */
    const int16_t slots[] = {0, 3, 1, 2, 0, 1, 2, 3};
    coterie_placement_options_t options = COTERIE_PLACEMENT_OPTIONS_INIT;

    options.layer_count = 2;
    options.expert_count = 4;
    options.rank_count = 2;
    options.slot_expert = slots;
    expect_round_trip(make(&options), COTERIE_FORMAT_EXFLOW,
                      "Expert,Node\n0,0\n1,1\n2,1\n3,0\n4,0\n5,0\n6,1\n7,1\n");
}

Test(formats, eplb_has_three_maps)
{
    expect_round_trip(
        with_replica(), COTERIE_FORMAT_EPLB,
        "{\"physical_to_logical_map\":[[0,1,2,1]],"
        "\"logical_to_physical_map\":[[[0,-1],[1,3],[2,-1]]],"
        "\"logical_replica_count\":[[1,2,1]]}\n");
}

Test(formats, coterie_has_everything)
{
    /* Uneven ranks, an empty slot, nodes and scores. */
    const uint16_t ranks[] = {0, 0, 1, 3};
    const int16_t slots[] = {0, 1, 1, -1, 1, -1, 0, -1};
    const uint8_t scores[] = {0, 0, 0, 9, 1, 2, 3, 255, 0, 0, 0, 0, 0, 0, 0, 0};
    coterie_placement_options_t options = COTERIE_PLACEMENT_OPTIONS_INIT, view;
    coterie_placement_t *placement, *back = NULL;

    options.layer_count = options.expert_count = options.node_count = 2;
    options.rank_count = options.slot_count = 4;
    options.slot_rank = ranks;
    options.slot_expert = slots;
    options.next_score = scores;
    placement = make(&options);
    cr_assert(eq(
        int, COTERIE_OK,
        coterie_placement_write(placement, path(), COTERIE_FORMAT_COTERIE, 0)));
    cr_assert(eq(int, COTERIE_OK, coterie_placement_read(path(), 0, &back)),
              "%s", coterie_last_error());
    expect_same_slots(back, placement);
    coterie_placement_view(back, &view);
    cr_expect(eq(u32, view.node_count, 2));
    cr_expect(zero(memcmp(view.next_score, scores, sizeof(scores))));
    coterie_placement_destroy(back);
    coterie_placement_destroy(placement);
}

Test(formats, coterie_leaves_out_scores_that_are_all_zero)
{
    expect_round_trip(
        four_experts(), COTERIE_FORMAT_COTERIE,
        "{\"format\":\"coterie-placement\",\"version\":1,\"layer_count\":2,"
        "\"expert_count\":4,\"rank_count\":2,\"node_count\":1,"
        "\"slot_rank\":[0,0,1,1],\"physical_to_logical_map\":[[3,0,1,2],"
        "[0,1,2,3]]}\n");
}

Test(formats, tensorrt_counts_only_the_layers_with_experts)
{
    coterie_placement_t *wanted = four_experts(), *placement = NULL;

    text_put("placement",
             "layer_updates_per_iter: 0\nnum_slots: 4\n"
             "initial_global_assignments:\n"
             "  11:\n  - 0\n  - 1\n  - 2\n  - 3\n  3: [3,0,1,2]\n");
    cr_assert(
        eq(int, COTERIE_OK, coterie_placement_read(path(), 2, &placement)),
        "%s", coterie_last_error());
    expect_same_slots(placement, wanted);
    coterie_placement_destroy(placement);
    coterie_placement_destroy(wanted);
}

static void expect_write_refused(coterie_placement_t *placement,
                                 coterie_placement_format_t format,
                                 const char *part)
{
    cr_expect(eq(int, COTERIE_ERR_UNSUPPORTED,
                 coterie_placement_write(placement, path(), format, 1)));
    cr_expect(ne(ptr, strstr(coterie_last_error(), part), NULL), "%s",
              coterie_last_error());
    cr_expect(zero(int, files_count())); /* nothing was written */
}

Test(formats, refuse_what_they_cannot_say)
{
    const uint16_t uneven[] = {0, 1, 1, 1};
    const int16_t hole[] = {0, 1, 2, -1};
    coterie_placement_options_t options = COTERIE_PLACEMENT_OPTIONS_INIT;
    coterie_placement_t *placement = with_replica();

    expect_write_refused(placement, COTERIE_FORMAT_EXFLOW, "two slots");
    coterie_placement_destroy(placement);
    options.layer_count = 1;
    options.expert_count = 3;
    options.rank_count = 2;
    options.slot_count = 4;
    options.slot_expert = hole;
    placement = make(&options);
    for (int f = COTERIE_FORMAT_SGLANG; f <= COTERIE_FORMAT_EPLB; f++)
        expect_write_refused(placement, (coterie_placement_format_t)f,
                             "layer 0, slot 3 is empty");
    coterie_placement_destroy(placement);
    options.expert_count = 4;
    options.slot_expert = NULL;
    options.slot_rank = uneven;
    placement = make(&options);
    for (int f = COTERIE_FORMAT_SGLANG; f <= COTERIE_FORMAT_EPLB; f++)
        expect_write_refused(placement, (coterie_placement_format_t)f,
                             "ranks differ in slots");
    coterie_placement_destroy(placement);
}

Test(formats, exflow_refuses_what_would_read_as_more_layers)
{
    /* Experts 0 and 1 on ranks 0 and 1, and 2 and 3 again: it would read as
     * two layers of two. */
    const int16_t slots[] = {0, 2, 1, 3};
    coterie_placement_options_t options = COTERIE_PLACEMENT_OPTIONS_INIT;
    coterie_placement_t *placement;

    options.layer_count = 1;
    options.expert_count = 4;
    options.rank_count = 2;
    options.slot_expert = slots;
    placement = make(&options);
    expect_write_refused(placement, COTERIE_FORMAT_EXFLOW, "read as 2, not 4");
    coterie_placement_destroy(placement);
}

Test(formats, are_not_overwritten_without_force)
{
    coterie_placement_t *placement = four_experts();

    text_put("placement", "mine");
    cr_expect(
        eq(int, COTERIE_ERR_EXISTS,
           coterie_placement_write(placement, path(), COTERIE_FORMAT_VLLM, 0)));
    expect_file("mine");
    cr_expect(
        eq(int, COTERIE_OK,
           coterie_placement_write(placement, path(), COTERIE_FORMAT_VLLM, 1)));
    expect_file("[[3,0,1,2],[0,1,2,3]]\n");
    cr_expect(eq(int, COTERIE_ERR_INVALID,
                 coterie_placement_write(placement, path(),
                                         (coterie_placement_format_t)7, 1)));
    coterie_placement_destroy(placement);
}

static void expect_read_refused(uint32_t rank_count, coterie_status_t wanted,
                                const char *part)
{
    coterie_placement_t *placement = NULL;

    cr_expect(eq(int, wanted,
                 coterie_placement_read(path(), rank_count, &placement)));
    cr_expect(zero(ptr, placement));
    cr_expect(ne(ptr, strstr(coterie_last_error(), path()), NULL));
    cr_expect(ne(ptr, strstr(coterie_last_error(), part), NULL), "%s",
              coterie_last_error());
}

Test(formats, that_do_not_say_the_ranks_need_them_from_the_caller)
{
    text_put("placement", "[[0, 1, 2, 3]]");
    expect_read_refused(0, COTERIE_ERR_INVALID, "how many ranks");
    expect_read_refused(3, COTERIE_ERR_MISMATCH, "4 slots");
    text_put("placement", "Expert,Node\n0,0\n1,1\n");
    expect_read_refused(4, COTERIE_ERR_MISMATCH, "is for 2 ranks; here are 4");
}

Test(formats, that_are_malformed_are_refused_with_the_place)
{
    static const struct {
        const char *text, *part;
    } cases[] = {
        {"[[0, 1], [0]]", "layer 1 has 1 slots; layer 0 has 2"},
        {"[[0, 1], 7]", "layer 1 has 0 slots"},
        {"[[0, 1], [0, 1.5]]", "layer 1, slot 1: not a whole number"},
        {"[[0, 1], [0, 99999]]", "layer 1, slot 1: 99999 is no expert"},
        {"[[0, 1], [0, -2]]", "layer 1, slot 1: -2 is no expert"},
        {"[[0, 1], [0, 0]]", "layer 1: expert 1 has no slot"},
        {"[[0, 1], [0, 1]", "line 1"},
        {"[]", "no list of layers"},
        {"{\"weights\": 3}", "none of the keys"},
        {"{\"layer_list\": [], \"moe_layer_count\": 0}", "layer_list must"},
        {"{\"moe_layer_count\": 1, \"layer_list\": [{\"device_list\": ["
         "{\"device_expert\": [0]}, {\"device_expert\": [1, 2]}]}]}",
         "layer 0, device 1: 2 experts; the first has 1"},
        {"{\"physical_to_logical_map\": [[0, 1]], "
         "\"logical_replica_count\": [[1, 2]]}",
         "expert 1: logical_replica_count is not"},
        {"{\"physical_to_logical_map\": [[0, 1]], "
         "\"logical_to_physical_map\": [[[1], [0]]]}",
         "expert 0: logical_to_physical_map is not"},
        {"num_slots: 2\n", "initial_global_assignments"},
        {"num_slots: 2\ninitial_global_assignments: {0: [0, 1, 1]}\n",
         "layer 0 must be a list of num_slots = 2"},
        {"num_slots: 2\ninitial_global_assignments: {0: [0, x]}\n",
         "layer 0, slot 1: not a whole number"},
        {"num_slots: 2\ninitial_global_assignments: {0: [0, 1], 00: [0, 1]}\n",
         "layer 0 comes twice"},
        {"num_slots: 2\ninitial_global_assignments: {a: [0, 1]}\n",
         "line 2: a layer's number"},
        {"num_slots: [\n", "as YAML: line"},
        {"PK\003\004 something else", "no placement"},
        {"", "no placement"},
        {"Expert,Node\n0,0\n2,1\n", "line 3: must be 1, a comma"},
        {"Expert,Node\n0,0\n1,4096\n", "line 3"},
        {"Expert,Node\n0,0\n1,0\n2,1\n", "spread evenly over 2 nodes"},
        {"Expert,Node\n", "spread evenly"},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        text_put("placement", cases[i].text);
        expect_read_refused(2, COTERIE_ERR_FORMAT, cases[i].part);
    }
}

Test(formats, coterie_is_refused_wherever_a_member_is_wrong)
{
    static const struct {
        const char *from, *to, *part;
        coterie_status_t status;
    } cases[] = {
        {"coterie-", "other-", "format is other-", COTERIE_ERR_FORMAT},
        {"\"version\":1", "\"version\":2", "version 2; this library reads 1",
         COTERIE_ERR_UNSUPPORTED},
        {"\"layer_count\":2", "\"layer_count\":3", "has 2 layers",
         COTERIE_ERR_FORMAT},
        {"\"expert_count\":4", "\"expert_count\":3", "expert 3; there are",
         COTERIE_ERR_FORMAT},
        {"\"rank_count\":2", "\"rank_count\":-2", "rank_count must be",
         COTERIE_ERR_FORMAT},
        {"\"node_count\":1", "\"node_count\":5", "5 nodes do not divide",
         COTERIE_ERR_FORMAT},
        {"[0,0,1,1]", "[0,0,1]", "slot_rank must be a list of 4",
         COTERIE_ERR_FORMAT},
        {"[0,0,1,1]", "[0,0,1,2]", "slot_rank[3] must be a rank, 0 to 1",
         COTERIE_ERR_FORMAT},
        {"[0,0,1,1]", "[0,1,0,1]", "slot_rank must ascend", COTERIE_ERR_FORMAT},
        {"\"slot_rank\"", "\"next_score\":[[[1]]],\"slot_rank\"",
         "next_score[0][0][0]", COTERIE_ERR_FORMAT},
    };
    coterie_placement_t *placement = four_experts();
    char good[512], bad[1024];

    cr_assert(eq(
        int, COTERIE_OK,
        coterie_placement_write(placement, path(), COTERIE_FORMAT_COTERIE, 0)));
    coterie_placement_destroy(placement);
    FILE *stream = fopen(path(), "r");
    cr_assert(ne(ptr, fgets(good, sizeof(good), stream), NULL));
    fclose(stream);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char *at = strstr(good, cases[i].from);
        cr_assert(ne(ptr, at, NULL));
        snprintf(bad, sizeof(bad), "%.*s%s%s", (int)(at - good), good,
                 cases[i].to, at + strlen(cases[i].from));
        text_put("placement", bad);
        expect_read_refused(2, cases[i].status, cases[i].part);
    }
}

Test(formats, a_missing_file_is_not_found)
{
    expect_read_refused(2, COTERIE_ERR_NOT_FOUND, "No such file");
}
