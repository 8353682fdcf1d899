#include "config.h"

#include <stdio.h>

#include "tools/command.h"
#include "tools/playing.h"

typedef struct predict_options {
    uint32_t ahead, experts;
    double train;
    bool frozen, json;
} predict_options_t;

/* By coterie_prediction_t. */
static const char *const prediction_names[COTERIE_PREDICTIONS] = {
    "popularity", "affinity", "regression", "router",
    "token",      "stack",    "blend"};

static const double default_train = 0.5;
static const uint32_t default_ahead = 2;

static int predict_run(const invocation_t *in);
static coterie_status_t distance_score(const predict_options_t *o,
                                       const coterie_trace_view_t *view,
                                       uint32_t distance, json_t *scores);
static json_t *distance_json(const coterie_score_result_t *result,
                             uint32_t distance);
static json_t *calibration_json(const coterie_score_result_t *result);
static void distance_text(const coterie_score_result_t *result,
                          const coterie_trace_view_t *view,
                          uint32_t distance);

#define FIELD(name) offsetof(predict_options_t, name)

static const option_spec_t predict_specs[] = {
    {"ahead", 'a', OPTION_COUNT, FIELD(ahead), "N",
     "score predictions 1 to N layers ahead (2)", 1, 4096, NULL},
    {"train", 't', OPTION_REAL, FIELD(train), "SHARE",
     "learn from this first share, score the rest (0.5)", 0.001, 0.999, NULL},
    {"frozen", 0, OPTION_FLAG, FIELD(frozen), NULL,
     "learn nothing from the tokens that are scored", 0, 0, NULL},
    {"experts", 'e', OPTION_COUNT, FIELD(experts), "N",
     "experts per layer (the largest id and one)", 1, 1 << 15, NULL},
    {"json", 0, OPTION_FLAG, FIELD(json), NULL, "print one JSON object", 0, 0,
     NULL},
    {NULL, 0, 0, 0, NULL, NULL, 0, 0, NULL}};

const command_t command_predict = {
    .name = "predict",
    .operands = "TRACE",
    .operands_least = 1,
    .operands_most = 1,
    .summary = "scores predictions of the experts to come",
    .details =
        "Predictors, each also on its own:\n"
        "  popularity   how often a layer's experts are chosen\n"
        "  affinity     naive Bayes over the token's latest set\n"
        "  regression   logistic, over the token's last sets and the sets of\n"
        "               its sequence's last tokens at the layer\n"
        "  router       the next layer's router, applied early: if the trace\n"
        "               holds its guesses\n"
        "  token        how often each expert is chosen for the token that\n"
        "               comes in: if the trace holds tokens\n"
        "  stack        the odds of all these, weighted\n"
        "  blend        the average of all, weighted by past worth\n"
        "recall@k is the share of a token's k experts that are among the k\n"
        "best guesses. Predictors go on learning from each set once it is\n"
        "scored; --frozen stops them.\n",
    .options = predict_specs,
    .options_size = sizeof(predict_options_t),
    .run = predict_run};

static int predict_run(const invocation_t *in)
{
    const predict_options_t *o = in->options;
    uint32_t ahead = o->ahead > 0 ? o->ahead : default_ahead;
    json_t *scores = json_array();
    coterie_trace_t *trace = NULL;
    coterie_trace_view_t view;
    coterie_status_t status =
        coterie_trace_read(in->operands[0], o->experts, &trace);

    if (status == COTERIE_OK) {
        coterie_trace_view(trace, &view);
        if (o->ahead == 0 && ahead > view.layer_count)
            ahead = view.layer_count;
        if (ahead > view.layer_count)
            status = failure(COTERIE_ERR_INVALID,
                             "%s: %u layers, --ahead %u", in->operands[0],
                             view.layer_count, ahead);
    }
    for (uint32_t d = 1; d <= ahead && status == COTERIE_OK; d++)
        status = distance_score(o, &view, d, scores);
    if (status == COTERIE_OK && o->json)
        status = json_print(json_pack("{s:i, s:i, s:i, s:O}", "layers",
                                      (int)view.layer_count, "experts",
                                      (int)view.expert_count, "k",
                                      (int)view.k, "ahead", scores));
    json_decref(scores);
    coterie_trace_destroy(trace);
    return status == COTERIE_OK ? EXIT_DONE : command_fail(in);
}

static coterie_status_t distance_score(const predict_options_t *o,
                                       const coterie_trace_view_t *view,
                                       uint32_t distance, json_t *scores)
{
    coterie_score_options_t options = COTERIE_SCORE_OPTIONS_INIT;
    coterie_score_result_t result = COTERIE_SCORE_RESULT_INIT;
    progress_t progress = {.what = "predict"};
    coterie_status_t status;

    options.distance = distance;
    options.frozen = o->frozen;
    options.first_counted =
        playing_first(view, 1 - (o->train > 0 ? o->train : default_train));
    options.progress = playing_progress;
    options.progress_arg = &progress;
    status = coterie_predictor_score(view, &options, &result);
    progress_end(&progress);
    if (status != COTERIE_OK)
        return status;
    if (!o->json)
        distance_text(&result, view, distance);
    else if (json_array_append_new(scores,
                                   distance_json(&result, distance)) != 0)
        status = failure(COTERIE_ERR_NO_MEMORY, "out of memory");
    return status;
}

static json_t *distance_json(const coterie_score_result_t *result,
                             uint32_t distance)
{
    json_t *predictors = json_object();

    for (int i = 0; i < COTERIE_PREDICTIONS; i++) {
        const coterie_score_t *score = &result->score[i];
        if (score->sets > 0)
            json_object_set_new(
                predictors, prediction_names[i],
                json_pack("{s:I, s:f, s:f, s:f}", "sets",
                          (json_int_t)score->sets, "recall_k",
                          score->recall_k, "recall_2k", score->recall_2k,
                          "log_loss", score->log_loss));
    }
    return json_pack("{s:i, s:I, s:o, s:f, s:o}", "lead_layers",
                     (int)distance, "tokens", (json_int_t)result->tokens,
                     "predictors", predictors, "calibration_error",
                     result->calibration_error, "calibration",
                     calibration_json(result));
}

static json_t *calibration_json(const coterie_score_result_t *result)
{
    json_t *bins = json_array();

    for (int i = 0; i < COTERIE_CALIBRATION_BINS; i++)
        json_array_append_new(
            bins, json_pack("{s:I, s:f, s:f}", "count",
                            (json_int_t)result->calibration[i].count,
                            "chance", result->calibration[i].chance,
                            "frequency", result->calibration[i].frequency));
    return bins;
}

static void distance_text(const coterie_score_result_t *result,
                          const coterie_trace_view_t *view,
                          uint32_t distance)
{
    printf("%s%u layer%s ahead, %llu tokens\n"
           "  %-12s recall@%-3u recall@%-3u log loss\n",
           distance > 1 ? "\n" : "", distance, distance > 1 ? "s" : "",
           (unsigned long long)result->tokens, "", view->k, 2 * view->k);
    for (int i = 0; i < COTERIE_PREDICTIONS; i++)
        if (result->score[i].sets > 0)
            printf("  %-12s %9.3f  %9.3f  %8.2f\n", prediction_names[i],
                   result->score[i].recall_k, result->score[i].recall_2k,
                   result->score[i].log_loss);
    printf("  calibration of the blend: chances given, and what came true\n");
    for (int i = 0; i < COTERIE_CALIBRATION_BINS; i++)
        if (result->calibration[i].count > 0)
            printf("  %12.3f %9.3f  (%llu)\n", result->calibration[i].chance,
                   result->calibration[i].frequency,
                   (unsigned long long)result->calibration[i].count);
}
