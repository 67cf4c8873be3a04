// Ways of running the rotary embedding: see mixer_variants.h.
#include "autograd/ops/rotary_turn.cuh"
#include "tests/bench/mixer_variants.h"

namespace matvlm {

using namespace rotary_turn;

std::vector<MixerVariant<RotaryArgs<bf16>>> rotary_variants() {
  return {{"1 row, 1 token", launch<bf16, Plan<1, 1>, true>},   {"1 row, 2 tokens", launch<bf16, Plan<1, 2>, true>},
          {"1 row, 4 tokens", launch<bf16, Plan<1, 4>, true>},  {"2 rows, 1 token", launch<bf16, Plan<2, 1>, true>},
          {"2 rows, 2 tokens", launch<bf16, Plan<2, 2>, true>}, {"2 rows, 4 tokens", launch<bf16, Plan<2, 4>, true>},
          {"4 rows, 2 tokens", launch<bf16, Plan<4, 2>, true>}};
}

}  // namespace matvlm
