// The raw SSD op against the double oracle: the kernels in float32 and bf16, and the CPU op in float32 through the same
// checks. Lengths and widths that break tiles, shared groups, packed rows, carried states, accumulation, views.
#include <gtest/gtest.h>

#include "tests/autograd/ssd_raw.h"

namespace matvlm::testing {
namespace {

constexpr auto kContiguous = SsdView::contiguous;
constexpr auto kAligned = SsdView::aligned;
constexpr auto kUnaligned = SsdView::unaligned;

// Columns: lengths, {heads, x, b, c groups, P, N}, initial, slots, final, accumulate, view.
std::vector<SsdCase> raw_cases() {
  return {
      {"1", {1}, {3, 3, 3, 3, 80, 80}, false, false, false, false, kContiguous},
      {"1, states", {1}, {3, 1, 1, 3, 80, 80}, true, false, true, true, kAligned},
      {"2", {2}, {5, 5, 1, 1, 80, 80}, true, false, true, false, kContiguous},
      {"63", {63}, {4, 2, 2, 4, 80, 80}, false, false, true, true, kAligned},
      {"64", {64}, {3, 3, 3, 3, 80, 80}, true, false, false, false, kContiguous},
      {"64, rows at odd offsets", {64}, {3, 1, 3, 1, 80, 80}, true, true, true, true, kUnaligned},
      {"65", {65}, {4, 2, 2, 4, 80, 80}, true, false, true, false, kAligned},
      {"255", {255}, {3, 3, 1, 3, 80, 80}, false, false, false, false, kUnaligned},
      {"256", {256}, {3, 3, 3, 3, 80, 80}, true, false, true, true, kContiguous},
      {"257", {257}, {4, 4, 2, 1, 80, 80}, false, false, true, false, kAligned},
      {"300", {300}, {3, 3, 3, 3, 80, 80}, false, false, false, false, kContiguous},
      {"300, states", {300}, {6, 2, 2, 6, 80, 80}, true, true, true, true, kAligned},
      {"3 x 257", {257, 257, 257}, {3, 1, 1, 3, 80, 80}, false, false, false, false, kContiguous},
      {"packed, K = 1", {300, 1, 64}, {4, 1, 1, 4, 80, 80}, true, true, true, false, kAligned},
      {"packed, K = 2", {65, 256, 2}, {4, 2, 2, 4, 80, 80}, false, false, false, true, kUnaligned},
      {"packed, K = H", {63, 255, 129}, {5, 5, 5, 5, 80, 80}, true, false, true, false, kContiguous},
      {"Mamba-2: one group of B and C", {130, 127}, {6, 6, 1, 1, 64, 128}, false, false, false, false, kContiguous},
      {"one group of B and C, states", {300, 33}, {5, 5, 1, 1, 64, 128}, true, false, true, true, kAligned},
      {"mixed groups", {200, 65}, {12, 6, 4, 2, 64, 64}, true, true, true, false, kContiguous},
      {"mixed groups, accumulating", {200, 65}, {12, 2, 3, 4, 64, 64}, false, false, true, true, kUnaligned},
      {"empty sequences", {0, 70, 0, 0, 257, 0}, {3, 3, 3, 3, 80, 80}, true, true, true, false, kContiguous},
      {"empty sequences, no states", {0, 5, 0, 66, 0}, {4, 2, 2, 4, 80, 80}, false, false, false, true, kAligned},
      {"no tokens", {0, 0}, {3, 1, 3, 3, 80, 80}, true, false, true, false, kContiguous},
      {"P = 72", {255, 2}, {3, 3, 3, 3, 72, 72}, false, false, false, false, kContiguous},
      {"P = 72, K = 2, states", {65, 256}, {6, 2, 2, 6, 72, 72}, true, false, true, true, kAligned},
      {"P = 72, N = 80, odd offsets", {129}, {3, 1, 1, 3, 72, 80}, true, true, true, false, kUnaligned},
      {"many short ones",
       {1, 2, 3, 5, 8, 13, 21, 34, 55, 1, 1},
       {3, 3, 3, 3, 80, 80},
       true,
       true,
       true,
       true,
       kContiguous},
      {"more sequences than a warp has lanes",
       std::vector<int64_t>(45, 7),
       {3, 1, 3, 3, 80, 80},
       false,
       false,
       false,
       false,
       kAligned},
      {"31 sequences", std::vector<int64_t>(31, 65), {2, 2, 2, 2, 80, 80}, false, false, false, false, kContiguous},
      {"32 sequences", std::vector<int64_t>(32, 3), {2, 2, 2, 2, 80, 80}, true, true, true, false, kContiguous},
      {"more tokens than a chunk", {1428}, {2, 2, 2, 2, 80, 80}, true, false, true, false, kContiguous},
  };
}

// All pairs of widths; states, order of rows, accumulation and views take turns.
std::vector<SsdCase> width_cases(const std::vector<int64_t>& widths) {
  std::vector<SsdCase> out;
  for (const int64_t p : widths) {
    for (const int64_t n : widths) {
      const size_t i = out.size();
      const int64_t groups = i % 2 == 0 ? 2 : 1;
      SsdCase c{cat("P = ", p, ", N = ", n), {70, 0, 131}, {2, groups, i % 5 < 2 ? 1 : 2, i % 7 < 4 ? 2 : 1, p, n}};
      c.initial = i % 2 == 0;
      c.slots = i % 3 == 0;
      c.final_state = i % 4 < 2;
      c.accumulate = i % 5 == 3;
      c.view = static_cast<SsdView>(i % 3);
      out.push_back(c);
    }
  }
  return out;
}

// Every width there is, each once as P and once as N.
std::vector<SsdCase> every_width() {
  std::vector<SsdCase> out;
  for (int64_t p = 8; p <= 128; p += 4) {
    const int64_t n = 136 - p;
    SsdCase c{cat("P = ", p, ", N = ", n), {65, 1}, {2, 2, 1, 2, p, n}};
    c.initial = c.final_state = true;
    c.view = p % 8 == 0 ? kContiguous : kUnaligned;
    out.push_back(c);
  }
  return out;
}

// So many tokens and heads that a block of the backward kernels takes several heads of a group (on a GPU of 132
// multiprocessors 2 to 12 of them, and in one case all).
std::vector<SsdCase> group_cases() {
  return {
      {"heads share B and C", {1500, 70, 0, 1430}, {16, 16, 1, 1, 64, 128}, true, false, true, false, kContiguous},
      {"shared B and C, N = 88", {4000, 0, 2400}, {24, 24, 1, 1, 8, 88}, true, false, true, true, kContiguous},
      {"shared B and C, N = 24", {4000, 2400}, {24, 24, 2, 1, 24, 24}, false, false, true, false, kAligned},
      {"shared B and C, N = 72", {64, 6000, 250}, {24, 24, 1, 2, 8, 72}, false, false, false, false, kContiguous},
      {"all heads in a block", {8400}, {6, 6, 1, 1, 8, 88}, true, false, true, true, kContiguous},
      {"P = 88", {1700, 1300}, {24, 24, 1, 1, 88, 8}, true, true, true, false, kContiguous},
      {"heads share all", {4000, 2400}, {24, 4, 4, 2, 24, 72}, true, true, false, true, kContiguous},
      {"heads share x and B", {4000, 2400}, {24, 4, 4, 24, 24, 72}, true, false, true, false, kAligned},
      {"heads share C", {1400, 65, 1500}, {24, 24, 24, 2, 72, 72}, false, false, false, true, kContiguous},
      {"heads share B and C, odd offsets", {3000}, {24, 24, 2, 2, 20, 100}, true, false, true, true, kUnaligned},
  };
}

// What the sanitizer's slow tools are given: every kernel of the chunked form, a chunk that is full and one that is
// not, two heads of a group in a block.
std::vector<SsdCase> few_cases() {
  return {
      {"80", {70, 0, 129}, {2, 2, 2, 2, 80, 80}, true, true, true, false, kContiguous},
      {"128", {130}, {2, 2, 1, 1, 64, 128}, false, false, false, true, kAligned},
      {"odd offsets", {65}, {2, 1, 1, 2, 64, 64}, true, false, true, true, kUnaligned},
      {"odd offsets, 128", {66}, {2, 2, 1, 1, 64, 128}, true, false, true, true, kUnaligned},
      {"heads share B and C", {700, 33}, {24, 24, 2, 2, 64, 128}, true, false, true, false, kContiguous},
      {"heads share x and B", {700, 33}, {24, 4, 4, 24, 24, 72}, true, false, true, true, kContiguous},
  };
}

// Shared memory of a block on smaller GPUs: compute capability 8.0, and 8.6, 8.9 and 12.0 (GeForce).
const std::vector<int64_t> kPortable = {163 * 1024, 99 * 1024};

// portable: values of portable_shared, one run each.
template <class E>
void check_cases(Context& ctx, const std::vector<SsdCase>& cases, const std::vector<int64_t>& portable = {0}) {
  for (const SsdCase& c : cases) {
    const SsdProblem p(c, kDType<E>);
    const SsdReference exact = ssd_reference(p);
    for (const int64_t shared : portable) check_raw<E>(ctx, p, exact, shared);
  }
}

const std::vector<int64_t> kWidths = {8, 12, 20, 64, 72, 80, 96, 100, 128};

TEST(SsdRaw, CpuMatchesOracle) { check_cases<float>(cpu(), raw_cases()); }
TEST(SsdRaw, CpuEveryWidth) { check_cases<float>(cpu(), every_width()); }
TEST(SsdRaw, CpuWidths) { check_cases<float>(cpu(), width_cases({8, 20, 100})); }

TEST(SsdRawCuda, Float32MatchesOracle) { check_cases<float>(*new_cuda(), raw_cases()); }
TEST(SsdRawCuda, Bf16MatchesOracle) { check_cases<bf16>(*new_cuda(), raw_cases()); }
TEST(SsdRawCuda, Bf16Few) { check_cases<bf16>(*new_cuda(), few_cases()); }
TEST(SsdRawCuda, Bf16FewPortable) { check_cases<bf16>(*new_cuda(), few_cases(), kPortable); }
TEST(SsdRawCuda, Bf16Portable) {
  const auto ctx = new_cuda();
  check_cases<bf16>(*ctx, raw_cases(), kPortable);
  check_cases<bf16>(*ctx, width_cases({8, 64, 72, 80, 96, 128}), kPortable);
  check_cases<bf16>(*ctx, group_cases(), {kPortable.front()});
}
TEST(SsdRawCuda, Bf16SeveralHeadsABlock) { check_cases<bf16>(*new_cuda(), group_cases()); }
TEST(SsdRawCuda, Float32Widths) { check_cases<float>(*new_cuda(), width_cases(kWidths)); }
TEST(SsdRawCuda, Bf16Widths) { check_cases<bf16>(*new_cuda(), width_cases(kWidths)); }
TEST(SsdRawCuda, Float32EveryWidth) { check_cases<float>(*new_cuda(), every_width()); }
TEST(SsdRawCuda, Bf16EveryWidth) { check_cases<bf16>(*new_cuda(), every_width()); }

// Every gradient without the others.
template <class E>
void check_single_gradients(Context& ctx) {
  const SsdProblem p({"one gradient at a time", {70, 0, 131}, {4, 2, 2, 4, 80, 80}, true, true, true}, kDType<E>);
  const SsdReference exact = ssd_reference(p);
  const SsdHeld held = held_gradients(p, kDType<E>);
  for (size_t wanted = 0; wanted < kSsdInputs; ++wanted) {
    const std::string where = cat(p.c.name, ": ", kSsdNames[wanted]);
    const std::vector<float> found = RawSsd<E>(ctx, p, held).run_single(where, wanted);
    if (wanted < kALog || wanted == kInitial) {
      expect_tensor(p, found, exact.grads[wanted], held[wanted], kDType<E>, where);
    } else {
      expect_weight(p, found, exact.grads[wanted], held[wanted], exact.weights[wanted - kALog],
                    std::is_same_v<E, bf16> && wanted != kD, where);
    }
  }
}

// That check_raw() has compared anything.
TEST(SsdRawCuda, StepsAreKept) {
  const auto ctx = new_cuda();
  const SsdProblem p({"steps", {70, 0, 131}, {4, 2, 2, 4, 80, 80}}, DType::bf16);
  const SsdHeld held = held_gradients(p, DType::bf16);
  RawSsd<bf16> op(*ctx, p, held);
  op.run("steps", true);
  EXPECT_TRUE(op.kept());
}

TEST(SsdRaw, CpuSingleGradients) { check_single_gradients<float>(cpu()); }
TEST(SsdRawCuda, Float32SingleGradients) { check_single_gradients<float>(*new_cuda()); }
TEST(SsdRawCuda, Bf16SingleGradients) { check_single_gradients<bf16>(*new_cuda()); }

}  // namespace
}  // namespace matvlm::testing
