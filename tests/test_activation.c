#include "config.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <criterion/parameterized.h>

#include <coterie/coterie.h>

#include "tests/kernels_data.h"

typedef struct form {
    int isa;
    coterie_activation_t activation;
    int plain, biased;
} form_t;

static const float alpha = 1.702f, limit = 7;

static struct criterion_test_params forms_make(void)
{
    static form_t forms[3 * 4 * 2 * 2];
    size_t count = 0;

    for (int isa = 0; isa < 3; isa++)
        for (int a = 0; a < 4; a++)
            for (int i = 0; i < 4; i++)
                forms[count++] =
                    (form_t){isa, (coterie_activation_t)a, i & 1, i >> 1};
    return cr_make_param_array(form_t, forms, count, NULL);
}

static double sigmoid(double x)
{
    return 1 / (1 + exp(-x));
}

/* As published; NaN goes through all of them. */
static double reference(coterie_activation_t activation, double gate,
                        double up)
{
    const double z = sqrt(2 / acos(-1)) * (gate + 0.044715 * pow(gate, 3));

    switch (activation) {
    case COTERIE_ACTIVATION_SWIGLU:
        return gate * sigmoid(gate) * up;
    case COTERIE_ACTIVATION_GEGLU:
        return gate * sigmoid(2 * z) * up;
    case COTERIE_ACTIVATION_RELU:
        return (gate < 0 ? 0 : gate) * up;
    default:
        gate = gate > limit ? limit : gate;
        up = up > limit ? limit : up < -limit ? -limit : up;
        return (up + 1) * gate * sigmoid((double)alpha * gate);
    }
}

/* An FFN of one input: `ffn` times the same gate and up, summed up. */
static float through(const form_t *form, uint32_t ffn, float gate, float up)
{
    const coterie_ffn_shape_t shape = {.hidden = 1,
                                       .ffn = ffn,
                                       .dtype = COTERIE_DTYPE_F32,
                                       .activation = form->activation,
                                       .alpha = alpha,
                                       .limit = limit};
    float codes[3][16], panels[3][16 * 16], x = 1, sum = 0, bias[2][16];
    const float weight = 1, down_bias = 3;
    const uint32_t first[2] = {0, 1}, row = 0;
    const coterie_expert_rows_t rows = {1, 1, first, &row, &weight};
    coterie_expert_weights_t expert = {.gate = panels[0],
                                       .up = panels[1],
                                       .down = panels[2]};
    void *scratch = malloc(coterie_expert_ffn_scratch(&shape));

    for (uint32_t i = 0; i < ffn; i++) {
        codes[0][i] = form->biased ? gate - 0.5f : gate;
        codes[1][i] = form->biased ? up + 2 : up;
        codes[2][i] = 1;
        bias[0][i] = 0.5f;
        bias[1][i] = -2;
    }
    coterie_panels_pack(shape.dtype, ffn, 1, codes[0], NULL, panels[0]);
    coterie_panels_pack(shape.dtype, ffn, 1, codes[1], NULL, panels[1]);
    coterie_panels_pack(shape.dtype, 1, ffn, codes[2], NULL, panels[2]);
    if (form->biased) {
        expert.gate_bias = bias[0];
        expert.up_bias = bias[1];
        expert.down_bias = &down_bias;
    }
    if (form->plain)
        expert.gate = NULL;
    cr_assert(eq(int, COTERIE_OK, coterie_ffn_supported(&shape)));
    coterie_expert_ffn(&shape, &expert, &rows, &x, &sum, scratch);
    free(scratch);
    return (form->biased ? sum - down_bias : sum) / (float)ffn;
}

static void expect_through(const form_t *form, float gate, float up)
{
    const double want = form->plain ? reference(form->activation, up, 1)
                                    : reference(form->activation, gate, up);
    /* Products and sums round a few times, gelu's z with its own size. */
    const double limit_here =
        fabs(want) * 0x1p-21 * (2 + fabs(form->plain ? up : gate) * 60) +
        (form->biased ? 1e-6 * (fabs(gate) + 3) * (fabs(up) + 3) : 0) + 1e-37;

    expect_close(through(form, 1, gate, up), want, limit_here);
    expect_close(through(form, 16, gate, up), want, limit_here);
}

ParameterizedTestParameters(activation, is_as_published)
{
    return forms_make();
}

ParameterizedTest(form_t *form, activation, is_as_published)
{
    uint64_t seed = 9;

    use_isa(form->isa);
    for (int i = 0; i < 60; i++) {
        float *drawn = random_floats(&seed, 2);

        expect_through(form, drawn[0] * 12, drawn[1] * 12);
        free(drawn);
    }
    expect_through(form, 0, 1);
    expect_through(form, -0.0f, 1);
    expect_through(form, 88, -3);
    expect_through(form, -88, 2);
}

ParameterizedTestParameters(activation, does_with_infinities_what_it_says)
{
    return forms_make();
}

ParameterizedTest(form_t *form, activation, does_with_infinities_what_it_says)
{
    static const float special[] = {INFINITY, -INFINITY, NAN,  1e-40f,
                                    -1e-40f,  3e38f,     -3e38f, 2};

    use_isa(form->isa);
    for (int g = 0; g < 8 && !form->biased; g++)
        for (int u = 0; u < 8; u++) {
            const float gate = special[g], up = special[u];
            const double want =
                form->plain ? reference(form->activation, up, 1)
                            : reference(form->activation, gate, up);

            /* In f32 the largest ones overflow. */
            expect_close(through(form, 1, gate, up), (float)want,
                         fabs(want) * 1e-5 + 1e-37);
        }
}
