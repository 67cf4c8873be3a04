// Buckets of gradients: slices from the end of the arena, each started once, when all of its parameters are ready, and
// in the same order on every rank whatever its graph leaves unused.
#include <gtest/gtest.h>

#include <atomic>
#include <string>
#include <vector>

#include "core/error.h"
#include "distill/grad_sync.h"

namespace matvlm {
namespace {

// Wraps the communicator of a rank and notes where each request began.
class NotingComm : public Comm {
 public:
  NotingComm(Comm& inner, const float* arena) : Comm(inner.rank(), inner.size()), inner_(inner), arena_(arena) {}
  struct Started {
    int64_t begin = 0, count = 0;
    bool operator==(const Started&) const = default;
  };
  std::vector<Started> started;
  void barrier() override { inner_.barrier(); }
  void abort(int code) override { inner_.abort(code); }

 protected:
  void run_all_reduce(CommBuffer, CommOp, void*) override { fail("unexpected collective"); }
  std::unique_ptr<CommRequest> start_all_reduce(CommBuffer values, CommOp, void*) override {
    auto* data = static_cast<float*>(values.data);
    started.push_back({data - arena_, values.count});
    return inner_.start_all_reduce_sum(std::span<float>(data, static_cast<size_t>(values.count)));
  }
  void run_reduce_scatter(CommInput, CommBuffer, void*) override { fail("unexpected collective"); }
  void run_all_gather(CommInput, CommBuffer, void*) override { fail("unexpected collective"); }
  void run_broadcast(CommBuffer, int, void*) override { fail("unexpected collective"); }

 private:
  Comm& inner_;
  const float* arena_;
};

struct Rank {
  explicit Rank(Comm& comm, const std::vector<int64_t>& sizes, int64_t bucket_bytes)
      : ctx(make_cpu_context(1)),
        store(make_store(*ctx, sizes)),
        noting(comm, store->grad().data<float>()),
        sync(*ctx, noting, *store, bucket_bytes) {}

  static std::unique_ptr<ParameterStore> make_store(Context& ctx, const std::vector<int64_t>& sizes) {
    auto store = std::make_unique<ParameterStore>();
    for (size_t i = 0; i < sizes.size(); ++i) store->declare(cat("p", i), {sizes[i]});
    store->allocate(ctx, DType::f32);
    return store;
  }
  Parameter& parameter(size_t i) { return *store->parameters()[i]; }
  void fill(float value) {
    for (const auto& p : store->parameters()) {
      for (int64_t i = 0; i < p->numel; ++i) p->grad.data<float>()[i] = value + static_cast<float>(i);
    }
  }
  std::unique_ptr<Context> ctx;
  std::unique_ptr<ParameterStore> store;
  NotingComm noting;
  GradSync sync;
};

using Started = std::vector<NotingComm::Started>;

// Parameters start at multiples of 64 elements: 0, 128, 192, 256 for these.
const std::vector<int64_t> kSizes = {100, 64, 3, 200};

TEST(GradSync, BucketsAreSlicesFromTheEndOfTheArena) {
  const std::pair<int64_t, Started> cases[] = {
      {1, {{256, 200}, {192, 64}, {128, 64}, {0, 128}}},  // a bucket each, padding between them included
      {800, {{256, 200}, {0, 256}}},                      // 200 elements fill one; 64 + 64 do not
      {801, {{192, 264}, {0, 192}}},
      {1 << 20, {{0, 456}}},
  };
  for (const auto& [bytes, expected] : cases) {
    SCOPED_TRACE(bytes);
    std::atomic<int> compared = 0;
    run_local_ranks(2, [&, bytes = bytes, expected = expected](Comm& comm) {
      Rank rank(comm, kSizes, bytes);
      EXPECT_EQ(rank.sync.buckets(), static_cast<int64_t>(expected.size()));
      rank.fill(1.0F + static_cast<float>(comm.rank()));
      rank.sync.begin();
      rank.sync.finish();
      EXPECT_EQ(rank.noting.started, expected);
      for (const auto& p : rank.store->parameters()) {
        for (int64_t i = 0; i < p->numel; ++i) {
          ASSERT_EQ(p->grad.data<float>()[i], 3.0F + 2 * static_cast<float>(i)) << p->name;
        }
      }
      ++compared;
    });
    EXPECT_EQ(compared, 2);
  }
}

TEST(GradSync, ABucketStartsWhenAllOfItsParametersAreReady) {
  run_local_ranks(2, [](Comm& comm) {
    Rank rank(comm, kSizes, 801);  // buckets {p3, p2} and {p1, p0}
    rank.fill(1.0F);
    rank.sync.begin();
    const Graph::ParameterHook hook = rank.sync.hook();
    hook(rank.parameter(3));
    EXPECT_TRUE(rank.noting.started.empty());
    hook(rank.parameter(1));
    EXPECT_TRUE(rank.noting.started.empty());
    hook(rank.parameter(2));
    EXPECT_EQ(rank.noting.started, (Started{{192, 264}}));
    hook(rank.parameter(0));
    EXPECT_EQ(rank.noting.started, (Started{{192, 264}, {0, 192}}));
    rank.sync.finish();
    EXPECT_EQ(rank.noting.started.size(), 2U);
    EXPECT_EQ(rank.parameter(3).grad.data<float>()[199], 2 * 200.0F);
  });
}

// Ranks finish their parameters in different orders, or never: the collectives are the same.
TEST(GradSync, EveryRankIssuesTheSameCollectives) {
  run_local_ranks(3, [](Comm& comm) {
    Rank rank(comm, kSizes, 1);
    const Started expected = {{256, 200}, {192, 64}, {128, 64}, {0, 128}};
    for (int update = 0; update < 3; ++update) {
      rank.noting.started.clear();
      rank.fill(static_cast<float>(update));
      rank.sync.begin();
      const Graph::ParameterHook hook = rank.sync.hook();
      if (comm.rank() == 0) {
        for (const size_t i : {0, 1, 2, 3}) hook(rank.parameter(i));  // the first bucket's parameter last
      } else if (comm.rank() == 1) {
        for (const size_t i : {3, 1}) hook(rank.parameter(i));  // 2 and 0 are not used
        EXPECT_EQ(rank.noting.started, (Started{{256, 200}}));  // 1 waits for 2
      }                                                         // rank 2 has no rows at all
      rank.sync.finish();
      EXPECT_EQ(rank.noting.started, expected);
      EXPECT_EQ(rank.parameter(2).grad.data<float>()[2], 3 * (static_cast<float>(update) + 2));
    }
  });
}

// The hook of a graph that runs after finish(), an evaluation say, does nothing.
TEST(GradSync, NothingStartsOutsideAnUpdate) {
  run_local_ranks(2, [](Comm& comm) {
    Rank rank(comm, kSizes, 1);
    const Graph::ParameterHook hook = rank.sync.hook();
    hook(rank.parameter(3));
    rank.sync.begin();
    rank.sync.finish();
    hook(rank.parameter(3));
    EXPECT_EQ(rank.noting.started.size(), 4U);
  });
}

TEST(GradSync, OneRankSendsNothing) {
  const auto comms = make_local_comms(1);
  Rank rank(*comms[0], kSizes, 1);
  rank.fill(1.0F);
  rank.sync.begin();
  rank.sync.hook()(rank.parameter(3));
  rank.sync.finish();
  EXPECT_TRUE(rank.noting.started.empty());
  EXPECT_EQ(rank.parameter(0).grad.data<float>()[0], 1.0F);
}

TEST(GradSync, Errors) {
  const auto comms = make_local_comms(1);
  const auto error = [](const auto& action) {
    try {
      action();
    } catch (const Error& e) {
      return std::string(e.what());
    }
    return std::string("no error");
  };
  EXPECT_EQ(error([&] { Rank(*comms[0], kSizes, 0); }), "[grad_sync] bucket size: found 0, expected a positive number");
  Rank rank(*comms[0], kSizes, 1);
  Parameter stranger;
  stranger.name = "stranger";
  rank.sync.begin();
  EXPECT_EQ(error([&] { rank.sync.hook()(stranger); }), "[grad_sync] unknown parameter 'stranger'");
}

}  // namespace
}  // namespace matvlm
