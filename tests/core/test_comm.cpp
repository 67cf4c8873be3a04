// Communicators: threads in one process with 1 to 4 ranks, failures that must release the others, and NCCL with one
// rank.
#include "core/comm.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <thread>

#include "core/context.h"
#include "core/error.h"
#include "core/tensor.h"
#include "tests/support/comm_checks.h"

namespace matvlm {
namespace {

using testing::comm_error_of;

class LocalComm : public ::testing::TestWithParam<int> {};

TEST_P(LocalComm, EveryCollectiveIsExact) {
  EXPECT_NO_THROW(run_local_ranks(GetParam(), [](Comm& comm) { testing::check_comm(comm); }));
}

TEST_P(LocalComm, BarrierHoldsTheFastRanks) {
  const int size = GetParam();
  std::atomic<int> arrived{0};
  std::atomic<bool> early{false};
  run_local_ranks(size, [&](Comm& comm) {
    for (int round = 1; round <= 20; ++round) {
      if (comm.rank() == round % size) std::this_thread::sleep_for(std::chrono::milliseconds(2));
      ++arrived;
      comm.barrier();
      if (arrived < round * size) early = true;
      comm.barrier();
    }
  });
  EXPECT_FALSE(early);
}

INSTANTIATE_TEST_SUITE_P(Ranks, LocalComm, ::testing::Values(1, 2, 3, 4));

TEST(LocalCommFailure, AbortReleasesWaitingRanks) {
  const auto comms = make_local_comms(3);
  std::vector<std::string> messages(3);
  std::vector<std::thread> threads;
  for (int r = 1; r < 3; ++r) {
    threads.emplace_back([&, r] {
      std::vector<float> values(10);
      messages[static_cast<size_t>(r)] = comm_error_of([&] {
        if (r == 1) {
          comms[1]->all_reduce_sum(values);
        } else {
          comms[2]->start_all_reduce_sum(values)->wait();
        }
      });
    });
  }
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  comms[0]->abort(3);
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(messages[1], "[comm] rank 0 aborted with code 3");
  EXPECT_EQ(messages[2], "[comm] rank 0 aborted with code 3");
  EXPECT_EQ(comm_error_of([&] { comms[0]->barrier(); }), "[comm] rank 0 aborted with code 3");
}

TEST(LocalCommFailure, AnExceptionOfOneRankReachesTheCaller) {
  std::atomic<int> released{0};
  const std::string message = comm_error_of([&] {
    run_local_ranks(4, [&](Comm& comm) {
      comm.barrier();
      if (comm.rank() == 2) throw Error("rank 2 found a NaN");
      const std::string error = comm_error_of([&] { comm.barrier(); });
      if (error == "[comm] rank 2 aborted with code 1") ++released;
      throw Error("released");
    });
  });
  EXPECT_EQ(message, "rank 2 found a NaN");
  EXPECT_EQ(released, 3);
}

TEST(LocalCommFailure, ARankThatLeavesReleasesTheOthers) {
  auto comms = make_local_comms(2);
  std::string message;
  std::thread thread([&] {
    std::vector<double> values(3);
    message = comm_error_of([&] { comms[1]->all_reduce_sum(values); });
  });
  comms[0].reset();
  thread.join();
  EXPECT_EQ(message, "[comm] rank 0 has left");
}

TEST(LocalCommFailure, AtLeastOneRankIsNeeded) {
  EXPECT_EQ(comm_error_of([] { make_local_comms(0); }), "[comm] found 0 ranks, expected at least 1");
}

TEST(NcclComm, ABuildWithoutItSaysSo) {
  if (have_nccl()) return;  // then NcclCommCuda has the tests
  const auto host = make_local_comms(1);
  EXPECT_TRUE(comm_error_of([&] { make_nccl_comm(*host[0], 0); }).starts_with("[nccl] this build has no NCCL"));
}

class NcclCommCuda : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(have_nccl()) << "a CUDA build without NCCL";
    context_ = make_cuda_context(0);
    hosts_ = make_local_comms(1);
    comm_ = make_nccl_comm(*hosts_[0], 0);
  }
  // Sum over one rank: the values themselves, whichever way the stream is given.
  template <class T>
  std::vector<T> after(const std::vector<T>& values, const std::function<void(std::span<T>)>& action) {
    const auto bytes = static_cast<int64_t>(values.size() * sizeof(T));
    const Tensor buffer = Tensor::empty(*context_, {bytes}, DType::u8);
    context_->to_device(buffer.raw(), values.data(), bytes);
    context_->synchronize();  // `action` may name no stream
    action(std::span<T>(static_cast<T*>(buffer.raw()), values.size()));
    std::vector<T> result(values.size());
    context_->to_host(result.data(), buffer.raw(), bytes);
    return result;
  }

  std::unique_ptr<Context> context_;
  std::vector<std::unique_ptr<Comm>> hosts_;
  std::unique_ptr<Comm> comm_;
};

TEST_F(NcclCommCuda, OneRankEqualsNone) {
  EXPECT_TRUE(comm_->on_gpu());
  EXPECT_EQ(comm_->size(), 1);
  const std::vector<float> floats = testing::rank_values(0, 10007);
  const std::vector<int64_t> integers = {1, -2, int64_t{1} << 50};
  const std::vector<uint8_t> bytes = {0, 127, 255};
  EXPECT_EQ(after<float>(floats, [&](std::span<float> x) { comm_->all_reduce_sum(x); }), floats);
  EXPECT_EQ(after<float>(floats, [&](std::span<float> x) { comm_->all_reduce_max(x); }), floats);
  EXPECT_EQ(after<int64_t>(integers, [&](std::span<int64_t> x) { comm_->all_reduce_sum(x); }), integers);
  EXPECT_EQ(after<float>(floats, [&](std::span<float> x) { comm_->reduce_scatter_sum(x, x); }), floats);
  EXPECT_EQ(after<float>(floats, [&](std::span<float> x) { comm_->all_gather(x, x); }), floats);
  EXPECT_EQ(after<uint8_t>(bytes, [&](std::span<uint8_t> x) { comm_->broadcast(x, 0); }), bytes);
  EXPECT_EQ(after<float>(floats, [&](std::span<float> x) { comm_->start_all_reduce_sum(x)->wait(); }), floats);
  comm_->barrier();
  EXPECT_EQ(comm_->async_error(), "");
}

TEST_F(NcclCommCuda, GatherCopiesToAnotherBuffer) {
  const std::vector<float> values = testing::rank_values(0, 5000);
  const Tensor own = Tensor::from(*context_, values, {5000});
  const Tensor all = Tensor::zeros(*context_, {5000}, DType::f32);
  context_->synchronize();
  comm_->all_gather(std::span<const float>(own.data<float>(), 5000), std::span<float>(all.data<float>(), 5000));
  EXPECT_EQ(all.to_vector<float>(*context_), values);
}

TEST_F(NcclCommCuda, AbortedCommunicatorsSaySo) {
  hosts_ = make_local_comms(1);
  auto comm = make_nccl_comm(*hosts_[0], 0);
  comm->abort(2);
  EXPECT_EQ(comm->async_error(), "[nccl] the communicator was aborted");
  const Tensor values = Tensor::zeros(*context_, {4}, DType::f32);
  EXPECT_EQ(comm_error_of([&] { comm->all_reduce_sum(std::span<float>(values.data<float>(), 4)); }),
            "[nccl] found a collective after abort, expected none");
  comm_.reset();
}

TEST_F(NcclCommCuda, AMissingDeviceIsAnError) {
  const auto host = make_local_comms(1);
  EXPECT_TRUE(comm_error_of([&] { make_nccl_comm(*host[0], cuda_device_count()); }).starts_with("[cuda] "));
}

}  // namespace
}  // namespace matvlm
