// Perplexity of a model, and of its teacher beside it, on the labels of a pack.
#pragma once

#include "data/dataset.h"
#include "launch/commands.h"
#include "launch/model_folder.h"
#include "launch/runtime.h"

namespace matvlm {

// exp(mean next-token loss) over the pack's labels (every token of plain texts, the answers of conversations); with
// args.teacher also the teacher's, their KL and how often their arg max agrees. Prints a table on rank 0 and writes
// args.json. Collective.
int run_perplexity(Runtime& runtime, const EvalArgs& args, const LoadedModel& model, const Dataset& data, DType dtype);

}  // namespace matvlm
