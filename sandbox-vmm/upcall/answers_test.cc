#include "upcall/answers.h"

#include <gtest/gtest.h>

namespace wyvern::upcall {
namespace {

using agent::v1::CpuRequest;
using agent::v1::CpuResponse;
using agent::v1::MemoryRequest;
using agent::v1::MemoryResponse;
using agent::v1::PciRescanRequest;
using agent::v1::PciRescanResponse;

template <typename... Arguments>
bool Passes(const Arguments&... arguments) {
  const auto checked = CheckAnswer(arguments...);
  EXPECT_TRUE(checked.has_value() || checked.error().code() == Code::kDataLoss);
  return checked.has_value();
}

PciRescanResponse Found(const std::string& address, const std::string& node) {
  PciRescanResponse answer;
  answer.set_pci_address(address);
  answer.set_node(node);
  return answer;
}

TEST(UpcallAnswersTest, DeviceOnBusZeroIsWhereWePutIt) {
  PciRescanRequest request;
  request.set_address("0000:00:05.0");
  request.mutable_identity()->mutable_blk();
  EXPECT_TRUE(Passes(request, Found("0000:00:05.0", "vda")));
  EXPECT_FALSE(Passes(request, Found("0000:00:06.0", "vda")));
  EXPECT_FALSE(Passes(request, Found("", "vda")));
  request.set_address("0000:00:1e.3/0");
  EXPECT_TRUE(Passes(request, Found("0000:07:00.0", "vda")));
  EXPECT_FALSE(Passes(request, Found(std::string(33, '0'), "vda")));
  EXPECT_FALSE(Passes(request, Found("0000:07:00.0\n", "vda")));
}

TEST(UpcallAnswersTest, NodeIsANameBelowDevAndNoPath) {
  PciRescanRequest request;
  request.set_address("0000:00:05.0");
  request.mutable_identity()->mutable_blk();
  for (const char* node : {"../vda", "vd a", "vda\n", "\xff"}) {
    EXPECT_FALSE(Passes(request, Found("0000:00:05.0", node))) << node;
  }
  EXPECT_FALSE(Passes(request, Found("0000:00:05.0", std::string(129, 'a'))));
  request.mutable_identity()->mutable_fs()->set_tag("my share/1");
  EXPECT_TRUE(Passes(request, Found("0000:00:05.0", "my share/1")));
  EXPECT_FALSE(Passes(request, Found("0000:00:05.0", "another")));
}

CpuResponse Cpus(std::initializer_list<uint32_t> online, std::initializer_list<uint32_t> refused) {
  CpuResponse answer;
  for (const uint32_t id : online) {
    answer.add_online(id);
  }
  for (const uint32_t id : refused) {
    answer.add_refused()->set_id(id);
  }
  return answer;
}

TEST(UpcallAnswersTest, EachCpuOfTheRequestIsAsAskedOrRefused) {
  CpuRequest request;
  request.add_id(1);
  request.add_id(2);
  EXPECT_TRUE(Passes(request, Cpus({0, 1, 2}, {}), true));
  EXPECT_TRUE(Passes(request, Cpus({0, 2}, {1}), true));
  EXPECT_TRUE(Passes(request, Cpus({0}, {}), false));
  EXPECT_FALSE(Passes(request, Cpus({0, 2}, {}), true));
  EXPECT_FALSE(Passes(request, Cpus({0, 1}, {}), false));
  EXPECT_FALSE(Passes(request, Cpus({0, 1, 2}, {3}), true));
  EXPECT_FALSE(Passes(request, Cpus({0}, {1, 1, 2}), true));
  EXPECT_FALSE(Passes(request, Cpus({2, 1, 0}, {}), true));
  EXPECT_FALSE(Passes(request, Cpus({0, 1, 1, 2}, {}), true));
  EXPECT_FALSE(Passes(request, Cpus({0, 1, 2, 1024}, {}), true));
  CpuResponse answer = Cpus({0, 2}, {1});
  answer.mutable_refused(0)->set_error(-1);
  EXPECT_FALSE(Passes(request, answer, true));
}

TEST(UpcallAnswersTest, MemoryIsWithinItsRangeAndDoneWhenItSaysSo) {
  MemoryRequest request;
  request.set_start(1ULL << 32U);
  request.set_size(1 << 30U);
  request.set_bytes(512 << 20U);
  MemoryResponse answer;
  answer.set_online_bytes(512 << 20U);
  answer.set_block_bytes(128 << 20U);
  answer.set_complete(true);
  EXPECT_TRUE(Passes(request, answer, true));
  EXPECT_TRUE(Passes(request, answer, false));
  answer.set_online_bytes(384 << 20U);
  EXPECT_FALSE(Passes(request, answer, true));
  EXPECT_TRUE(Passes(request, answer, false));
  answer.set_complete(false);
  EXPECT_TRUE(Passes(request, answer, true));
  answer.set_online_bytes((1 << 30U) + 1);
  EXPECT_FALSE(Passes(request, answer, true));
  answer.set_online_bytes(0);
  answer.set_block_bytes(3);
  EXPECT_FALSE(Passes(request, answer, true));
  answer.set_block_bytes(0);
  answer.set_error(5000);
  EXPECT_FALSE(Passes(request, answer, true));
}

}  // namespace
}  // namespace wyvern::upcall
