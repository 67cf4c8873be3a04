// Making a student from a teacher: which layers turn into Mamba-2 mixers, what is trained, what is shared.
#pragma once

#include "distill/config.h"
#include "layers/init.h"
#include "layers/vlm.h"
#include "layers/weights.h"

namespace matvlm {

// The teacher's config with the student's Mamba layers.
ModelConfig student_config(const ModelConfig& teacher, const StudentConfig& student);

// Whether the student trains the tensor: mixers, the connector when tuned, and names that match a pattern.
bool is_trained(const StudentConfig& student, const std::string& name);

// Error when a pattern of student.trainable matches no tensor of the model.
void check_trainable_patterns(const StudentConfig& student, const ModelConfig& config);

// Weights of a fresh student. Frozen tensors are the teacher's own (handles); trained copies start from the teacher's
// values; mixers start from `teacher_values` (attention) or at random, by `seed`.
ModelWeights make_student_weights(Context& ctx, const ModelConfig& config, const StudentConfig& student,
                                  const ModelWeights& teacher, const ValueSource& teacher_values, DType dtype,
                                  uint64_t seed, Offload offload = Offload::none);

}  // namespace matvlm
