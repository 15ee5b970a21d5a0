#include "ttrpc/protobuf_log.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>

#include "ttrpc_wire.pb.h"

namespace wyvern::ttrpc {
namespace {

TEST(ProtobufLogTest, StringsThatAreNoUtf8CannotFillTheLog) {
  LimitProtobufLog();
  std::string bytes;
  {
    wire::Status status;
    status.set_message("ab");
    bytes = status.SerializeAsString();
  }
  bytes[bytes.size() - 1] = '\xff';
  testing::internal::CaptureStderr();
  for (int i = 0; i < 1000; ++i) {
    wire::Status status;
    (void)status.ParseFromString(bytes);
  }
  const std::string said = testing::internal::GetCapturedStderr();
  EXPECT_NE(said.find("protobuf: "), std::string::npos) << said;
  EXPECT_LT(std::count(said.begin(), said.end(), '\n'), 12) << said;
}

}  // namespace
}  // namespace wyvern::ttrpc
