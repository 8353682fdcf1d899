#include "config.h"

#include <string.h>

#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include <coterie/topology.h>

#include "tests/trace_files.h"

TestSuite(topology, .init = files_make, .fini = files_remove);

static coterie_topology_t *read(const char *text, uint32_t ranks)
{
    coterie_topology_t *topology = NULL;

    cr_assert(eq(int, COTERIE_OK,
                 coterie_topology_read(text, ranks, &topology)),
              "%s", coterie_last_error());
    return topology;
}

static coterie_topology_t *read_json(const char *text)
{
    text_put("cluster.json", text);
    return read(file_path("cluster.json"), 0);
}

static void expect_unreadable(const char *text, uint32_t ranks,
                              coterie_status_t status, const char *part)
{
    coterie_topology_t *topology = NULL;

    cr_expect(eq(int, status, coterie_topology_read(text, ranks, &topology)),
              "%s", text);
    cr_expect(zero(ptr, topology));
    cr_expect(ne(ptr, strstr(coterie_last_error(), part), NULL), "%s",
              coterie_last_error());
}

#define HEAD "{\"format\": \"coterie-topology\", \"version\": 1, "

Test(topology, of_a_cluster_is_read_from_json)
{
    coterie_topology_t *topology = read_json(
        HEAD "\"nodes\": 2, \"ranks_per_node\": [3, 3], \"ranks\": 6, "
             "\"processors\": 2, \"links\": {\"node\": {\"latency_us\": 1, "
             "\"bandwidth_gbs\": 400}, \"network\": {\"latency_us\": 9, "
             "\"bandwidth_gbs\": 50, \"message_us\": 0.5}}, "
             "\"compute\": {\"expert_us\": 7, \"row_us\": 0.25, "
             "\"token_us\": 3, \"layer_us\": 2, "
             "\"copy_gbs\": 9}, \"slots\": [1,2,3,4,5,6], "
             "\"memory_bytes\": 8000000000}");
    coterie_topology_options_t view;

    coterie_topology_view(topology, &view);
    cr_expect(eq(u32, view.rank_count, 6));
    cr_expect(eq(u32, view.node_count, 2));
    cr_expect(eq(u32, view.processors, 2));
    cr_expect(eq(dbl, view.node.bandwidth_gbs, 400));
    cr_expect(eq(dbl, view.network.latency_us, 9));
    cr_expect(eq(dbl, view.network.message_us, 0.5));
    cr_expect(eq(dbl, view.expert_us, 7));
    cr_expect(eq(dbl, view.row_us, 0.25));
    cr_expect(eq(dbl, view.token_us, 3));
    cr_expect(eq(dbl, view.layer_us, 2));
    cr_expect(eq(dbl, view.copy_gbs, 9));
    cr_expect(eq(u32, view.slots[5], 6));
    cr_expect(eq(u64, view.memory[5], 8000000000));
    coterie_topology_destroy(topology);
}

Test(topology, says_what_the_network_costs)
{
    coterie_topology_t *topology = read_json(
        HEAD "\"nodes\": 2, \"ranks_per_node\": 2, \"links\": {\"node\": "
             "{\"latency_us\": 1, \"bandwidth_gbs\": 400}, \"network\": "
             "{\"latency_us\": 11, \"bandwidth_gbs\": 50}}}");
    double cost = 0;

    cr_expect(eq(int, COTERIE_OK,
                 coterie_topology_network_cost(topology, 0, &cost)));
    cr_expect(ieee_ulp_eq(dbl, cost, 8, 4));
    /* 400 kB: 1 + 1 us inside a node, 11 + 8 between nodes. */
    cr_expect(eq(int, COTERIE_OK,
                 coterie_topology_network_cost(topology, 400000, &cost)));
    cr_expect(ieee_ulp_eq(dbl, cost, 9.5, 4));
    coterie_topology_destroy(topology);
}

Test(topology, does_not_invent_what_the_network_costs)
{
    coterie_topology_t *topology =
        read_json(HEAD "\"nodes\": 2, \"ranks_per_node\": 2}");
    double cost = 42;

    cr_expect(eq(int, COTERIE_ERR_NOT_FOUND,
                 coterie_topology_network_cost(topology, 0, &cost)));
    coterie_topology_destroy(topology);
    topology = read_json(
        HEAD "\"nodes\": 2, \"ranks_per_node\": 2, \"links\": {\"node\": "
             "{\"bandwidth_gbs\": 5}, \"network\": {\"bandwidth_gbs\": 50}}}");
    cr_expect(eq(int, COTERIE_ERR_INVALID,
                 coterie_topology_network_cost(topology, 0, &cost)));
    cr_expect(eq(dbl, cost, 42));
    coterie_topology_destroy(topology);
}

Test(topology, that_does_not_add_up_is_refused_with_the_reason)
{
    static const struct {
        const char *text, *part;
        coterie_status_t status;
    } cases[] = {
        {"", "neither hwloc's XML nor JSON", COTERIE_ERR_FORMAT},
        {"{\"nodes\": 2}", "format is no text", COTERIE_ERR_FORMAT},
        {"{\"format\": \"coterie-topology\", \"version\": 2}",
         "version 2; this library reads 1", COTERIE_ERR_UNSUPPORTED},
        {HEAD "\"nodes\": 2}", "ranks_per_node must be", COTERIE_ERR_FORMAT},
        {HEAD "\"nodes\": 0, \"ranks_per_node\": 2}", "nodes must be",
         COTERIE_ERR_FORMAT},
        {HEAD "\"nodes\": 2, \"ranks_per_node\": 4, \"ranks\": 9}",
         "2 nodes of 4 make 8", COTERIE_ERR_FORMAT},
        {HEAD "\"nodes\": 2, \"ranks_per_node\": [4, 3]}",
         "nodes of unequal size are not supported", COTERIE_ERR_UNSUPPORTED},
        {HEAD "\"nodes\": 2, \"ranks_per_node\": [4]}",
         "one for each of the 2 nodes", COTERIE_ERR_FORMAT},
        {HEAD "\"nodes\": 4096, \"ranks_per_node\": 4096}", "1 to 4096",
         COTERIE_ERR_FORMAT},
        {HEAD "\"nodes\": 1, \"ranks_per_node\": 2, \"slots\": [1]}",
         "slots lists 1 ranks; there are 2", COTERIE_ERR_FORMAT},
        {HEAD "\"nodes\": 1, \"ranks_per_node\": 2, \"slots\": 70000}",
         "slots of rank 0", COTERIE_ERR_FORMAT},
        {HEAD "\"nodes\": 1, \"ranks_per_node\": 2, \"memory_bytes\": [1, "
              "-1]}", "memory_bytes of rank 1", COTERIE_ERR_FORMAT},
        {HEAD "\"nodes\": 1, \"ranks_per_node\": 2, \"link\": {}}",
         "no key 'link'", COTERIE_ERR_FORMAT},
        {HEAD "\"nodes\": 1, \"ranks_per_node\": 2, \"links\": {\"node\": "
              "{\"latency_us\": -1}}}", "latency_us must be",
         COTERIE_ERR_FORMAT},
        {HEAD "\"nodes\": 1, \"ranks_per_node\": 2, \"processors\": 3}",
         "at most the node's 2", COTERIE_ERR_FORMAT},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        text_put("cluster.json", cases[i].text);
        expect_unreadable(file_path("cluster.json"), 0, cases[i].status,
                          cases[i].part);
    }
    expect_unreadable(file_path("none.json"), 0, COTERIE_ERR_NOT_FOUND,
                      "No such file");
    text_put("cluster.json", HEAD "\"nodes\": 1, \"ranks_per_node\": 2}");
    expect_unreadable(file_path("cluster.json"), 3, COTERIE_ERR_MISMATCH,
                      "has 2 ranks; 3 are asked for");
}

#ifdef HAVE_HWLOC

static void expect_ranks(const char *text, uint32_t asked, uint32_t ranks,
                         uint32_t nodes)
{
    coterie_topology_t *topology = read(text, asked);
    coterie_topology_options_t view;

    coterie_topology_view(topology, &view);
    cr_expect(eq(u32, view.rank_count, ranks), "%s", text);
    cr_expect(eq(u32, view.node_count, nodes), "%s", text);
    coterie_topology_destroy(topology);
}

Test(topology, of_a_description_has_its_largest_parts_as_ranks)
{
    expect_ranks("synthetic:package:2 numa:4 core:2 pu:2", 0, 8, 2);
    expect_ranks("synthetic:package:4 core:2 pu:1", 0, 4, 1);
    expect_ranks("synthetic:package:1 core:6 pu:1", 0, 6, 1);
    expect_ranks("synthetic:group:3 package:4 core:2 pu:1", 0, 12, 3);
    expect_ranks("synthetic:package:1 pu:1", 0, 1, 1);
}

Test(topology, of_a_description_has_as_many_ranks_as_asked)
{
    expect_ranks("synthetic:package:2 numa:4 core:2 pu:2", 2, 2, 1);
    expect_ranks("synthetic:package:2 numa:4 core:2 pu:2", 16, 16, 2);
    expect_unreadable("synthetic:package:2 numa:4 core:2 pu:2", 5,
                      COTERIE_ERR_MISMATCH, "nothing of which there are 5");
    expect_unreadable("synthetic:nothing", 0, COTERIE_ERR_FORMAT,
                      "does not understand");
}

/* Two packages, with the GPUs given; no GPU is a screen's. */
#define MACHINE(gpus)                                                         \
    "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"                            \
    "<!DOCTYPE topology SYSTEM \"hwloc2.dtd\">\n<topology version=\"2.0\">"   \
    "<object type=\"Machine\" os_index=\"0\" cpuset=\"0x3\" "                 \
    "complete_cpuset=\"0x3\" allowed_cpuset=\"0x3\" nodeset=\"0x1\" "         \
    "complete_nodeset=\"0x1\" allowed_nodeset=\"0x1\" gp_index=\"1\">"        \
    "<object type=\"NUMANode\" os_index=\"0\" cpuset=\"0x3\" "                \
    "complete_cpuset=\"0x3\" nodeset=\"0x1\" complete_nodeset=\"0x1\" "       \
    "gp_index=\"2\" local_memory=\"1000000\"/>"                               \
    SOCKET("0", "0x1", "3") gpus "</object>"                                 \
    SOCKET("1", "0x2", "4") GPU("90", "cuda9", "1") "</object>"              \
    "</object></topology>"
#define SOCKET(index, set, gp)                                               \
    "<object type=\"Package\" os_index=\"" index "\" cpuset=\"" set "\" "     \
    "complete_cpuset=\"" set "\" nodeset=\"0x1\" complete_nodeset=\"0x1\" "   \
    "gp_index=\"" gp "\"><object type=\"PU\" os_index=\"" index "\" "         \
    "cpuset=\"" set "\" complete_cpuset=\"" set "\" nodeset=\"0x1\" "         \
    "complete_nodeset=\"0x1\" gp_index=\"1" gp "\"/>"
#define GPU(gp, name, bus)                                                    \
    "<object type=\"PCIDev\" gp_index=\"" gp "\" pci_busid=\"0000:" bus       \
    "1:00.0\" pci_type=\"0302 [10de:0001] [0000:0000] 00\" "                  \
    "pci_link_speed=\"0\"><object type=\"OSDev\" gp_index=\"1" gp "\" "       \
    "name=\"" name "\" osdev_type=\"5\"><info name=\"Backend\" "              \
    "value=\"CUDA\"/><info name=\"CUDAGlobalMemorySize\" value=\"2048\"/>"    \
    "</object><object type=\"OSDev\" gp_index=\"2" gp "\" name=\"card0\" "    \
    "osdev_type=\"1\"/></object>"

Test(topology, of_a_machine_with_gpus_has_these_as_ranks)
{
    coterie_topology_options_t view;
    coterie_topology_t *topology;

    text_put("machine.xml", MACHINE(GPU("50", "cuda0", "0")));
    topology = read(file_path("machine.xml"), 0);
    coterie_topology_view(topology, &view);
    cr_expect(eq(u32, view.rank_count, 2));
    cr_expect(eq(u32, view.node_count, 1));
    cr_assert(ne(ptr, (void *)view.memory, NULL));
    cr_expect(eq(u64, view.memory[1], 2048 << 10));
    coterie_topology_destroy(topology);
}

Test(topology, of_unequal_nodes_is_refused)
{
    text_put("machine.xml",
             MACHINE(GPU("50", "cuda0", "0") GPU("60", "cuda1", "2")));
    expect_unreadable(file_path("machine.xml"), 0, COTERIE_ERR_UNSUPPORTED,
                      "nodes of unequal size");
    text_put("machine.xml", "<topology>");
    expect_unreadable(file_path("machine.xml"), 0, COTERIE_ERR_FORMAT,
                      "does not understand this XML");
}

Test(topology, of_this_machine_has_a_rank)
{
    coterie_topology_t *topology = read("machine", 0);

    coterie_topology_destroy(topology);
}

#else

Test(topology, of_machines_needs_hwloc)
{
    expect_unreadable("machine", 0, COTERIE_ERR_UNSUPPORTED,
                      "built without hwloc");
    text_put("machine.xml", "<topology/>");
    expect_unreadable(file_path("machine.xml"), 0, COTERIE_ERR_UNSUPPORTED,
                      "built without hwloc");
}

#endif
