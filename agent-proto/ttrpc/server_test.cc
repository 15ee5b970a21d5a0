#include "ttrpc/server.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>

#include <filesystem>

#include "ttrpc/blocking.h"
#include "ttrpc/testing/harness.h"

namespace wyvern::ttrpc {
namespace {

// The tests cut connections under writers: that is an error to look at, not the end of the program.
[[maybe_unused]] const auto ignore_broken_pipes = signal(SIGPIPE, SIG_IGN);

TEST(ServerTest, GoldenUnaryTranscript) {
  TestServer server;
  const UniqueFd fd = server.Connect();
  // Request{service "test.Echo", method "Echo", payload KeyValue{value "hi"}, timeout_nano 1e11, metadata{"k": "v"}} on stream 1.
  ASSERT_TRUE(WriteAll(fd, Hex("00000026 00000001 01 00"
                               "0a09 746573742e4563686f 1204 4563686f 1a04 12026869"
                               "20 80d0dbc3f402 2a06 0a016b 120176"))
                  .has_value());
  // Response{payload}: no status means success.
  EXPECT_EQ(ReadBytes(fd, 16), Hex("00000006 00000001 02 00 1204 12026869"));
  server.OnLoop([&] {
    EXPECT_EQ(server.last_context.method, "Echo");
    EXPECT_EQ(server.last_context.MetadataValue("k"), "v");
    ASSERT_TRUE(server.last_context.deadline.has_value());
    const auto left = *server.last_context.deadline - std::chrono::steady_clock::now();
    EXPECT_GT(left, 0s);
    EXPECT_LE(left, 100s);
  });
}

TEST(ServerTest, GoldenErrorTranscript) {
  TestServer server;
  const UniqueFd fd = server.Connect();
  ASSERT_TRUE(WriteAll(fd, Hex("00000011 00000001 01 00 0a09 746573742e4563686f 1204 4661696c"))
                  .has_value());
  // Response{status{code 5, message "no such thing"}}
  EXPECT_EQ(ReadBytes(fd, 29), Hex("00000013 00000001 02 00 0a11 0805 120d"
                                   "6e6f2073756368207468696e67"));
}

TEST(ServerTest, GoldenStreamTranscript) {
  TestServer server;
  const UniqueFd fd = server.Connect();
  Message count = MakeMessage("2");
  ASSERT_TRUE(
      WriteAll(fd, RequestFrame(1, "test.Echo", "Count", count, kFlagRemoteClosed)).has_value());
  EXPECT_EQ(ReadBytes(fd, 36), Hex("00000003 00000001 03 00 120130"
                                   "00000003 00000001 03 00 120131"
                                   "00000000 00000001 03 05"));
}

TEST(ServerTest, EvenAndReusedIdsAreInvalidAndTheConnectionGoesOn) {
  TestServer server;
  const UniqueFd fd = server.Connect();
  const Message hi = MakeMessage("hi");
  ASSERT_TRUE(WriteAll(fd, RequestFrame(2, "test.Echo", "Echo", hi) +
                               RequestFrame(0, "test.Echo", "Echo", hi) +
                               RequestFrame(5, "test.Echo", "Echo", hi) +
                               RequestFrame(5, "test.Echo", "Echo", hi) +
                               RequestFrame(3, "test.Echo", "Echo", hi) +
                               RequestFrame(7, "test.Echo", "Echo", hi))
                  .has_value());
  const std::vector<std::pair<uint32_t, Code>> expected = {
      {2, Code::kInvalidArgument}, {0, Code::kInvalidArgument}, {5, Code::kOk},
      {5, Code::kInvalidArgument}, {3, Code::kInvalidArgument}, {7, Code::kOk}};
  for (const auto& [id, code] : expected) {
    const Frame frame = ReadFrame(fd);
    EXPECT_EQ(frame.header.stream_id, id);
    EXPECT_EQ(ResponseCode(frame), code);
  }
}

TEST(ServerTest, UnknownServiceMethodTypeAndGarbage) {
  TestServer server;
  const UniqueFd fd = server.Connect();
  ASSERT_TRUE(WriteAll(fd, RequestFrame(1, "test.Nope", "Echo", {}) +
                               RequestFrame(3, "test.Echo", "Nope", {}) +
                               EncodeFrame(5, static_cast<FrameType>(77), 0xff, "ignored") +
                               EncodeFrame(5, FrameType::kResponse, 0, "ignored") +
                               EncodeFrame(5, FrameType::kRequest, 0, "\xff\xff\xff garbage") +
                               EncodeFrame(9, FrameType::kData, 0, "no stream"))
                  .has_value());
  EXPECT_EQ(ResponseCode(ReadFrame(fd)), Code::kUnimplemented);
  EXPECT_EQ(ResponseCode(ReadFrame(fd)), Code::kUnimplemented);
  EXPECT_EQ(ResponseCode(ReadFrame(fd)), Code::kInvalidArgument);
  EXPECT_EQ(ResponseCode(ReadFrame(fd)), Code::kInvalidArgument);
}

TEST(ServerTest, OversizeRequestIsRefusedAndTheNextServed) {
  TestServer server;
  const UniqueFd fd = server.Connect();
  const auto header = EncodeHeader({.length = kMaxData + 5, .stream_id = 1, .type = 1, .flags = 0});
  std::thread writer([&] {
    EXPECT_TRUE(WriteAll(fd, header).has_value());
    EXPECT_TRUE(WriteAll(fd, std::string(kMaxData + 5, 'x')).has_value());
    EXPECT_TRUE(
        WriteAll(fd, RequestFrame(3, "test.Echo", "Echo", MakeMessage("still here"))).has_value());
  });
  const Frame refused = ReadFrame(fd);
  EXPECT_EQ(refused.header.stream_id, 1U);
  EXPECT_EQ(ResponseCode(refused), Code::kResourceExhausted);
  EXPECT_EQ(ResponseCode(ReadFrame(fd)), Code::kOk);
  writer.join();
}

TEST(ServerTest, AnswerLongerThanTheLimitIsAnError) {
  TestServer server;
  const UniqueFd fd = server.Connect();
  ASSERT_TRUE(
      WriteAll(fd, RequestFrame(1, "test.Echo", "Big", MakeMessage("4194304"))).has_value());
  EXPECT_EQ(ResponseCode(ReadFrame(fd)), Code::kResourceExhausted);
  ASSERT_TRUE(
      WriteAll(fd, RequestFrame(3, "test.Echo", "Big", MakeMessage("4194280"))).has_value());
  EXPECT_EQ(ResponseCode(ReadFrame(fd)), Code::kOk);
}

TEST(ServerTest, ErrorTextIsUtf8WhateverItWasMadeOf) {
  TestServer server;
  const UniqueFd fd = server.Connect();
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"é € 😀 \x7f", "é € 😀 \x7f"},
      {"a\xff\xfe z", "a?? z"},
      {"\xc0\xaf \xe0\x80\xaf \xf0\x80\x80\xaf", "?? ??? ????"},  // longer than need be
      {"\xed\xa0\x80 \xf4\x90\x80\x80", "??? ????"},              // a surrogate, beyond the last
      {"\x80 \xc3 \xe2\x82 x", "? ? ?? x"},                       // out of place, cut in the middle
      {"cut \xe2\x82", "cut ??"},
      {"cut \xf0", "cut ?"}};
  uint32_t stream = 1;
  for (const auto& [text, expected] : cases) {
    server.garbled = text;
    ASSERT_TRUE(WriteAll(fd, RequestFrame(stream, "test.Echo", "Garble", {})).has_value());
    stream += 2;
    wire::Response response;
    ASSERT_TRUE(response.ParseFromString(ReadFrame(fd).data)) << expected;
    EXPECT_EQ(response.status().message(), expected);
    EXPECT_EQ(response.status().code(), static_cast<int>(Code::kAborted));
  }
}

TEST(ServerTest, DroppedCallIsAnsweredInternal) {
  TestServer server;
  const UniqueFd fd = server.Connect();
  ASSERT_TRUE(WriteAll(fd, RequestFrame(1, "test.Echo", "Drop", {})).has_value());
  EXPECT_EQ(ResponseCode(ReadFrame(fd)), Code::kInternal);
}

TEST(ServerTest, TruncatedAndHalfOpenConnectionsEnd) {
  TestServer server;
  UniqueFd truncated = server.Connect();
  ASSERT_TRUE(
      WriteAll(truncated, RequestFrame(1, "test.Echo", "Echo", MakeMessage("hi")).substr(0, 15))
          .has_value());
  truncated.Reset();
  const UniqueFd half_open = server.Connect();
  ASSERT_TRUE(WriteAll(half_open, RequestFrame(1, "test.Echo", "Never", {})).has_value());
  ASSERT_EQ(shutdown(half_open.get(), SHUT_WR), 0);
  EXPECT_TRUE(server.WaitForConnections(0));
  // Answers to nobody go nowhere.
  server.OnLoop([&] {
    ASSERT_EQ(server.kept.size(), 1U);
    EXPECT_FALSE(server.kept[0].alive());
    server.kept[0].Ok(MakeMessage("late"));
  });
}

TEST(ServerTest, ClientThatDoesNotReadIsCutOffAndOthersAreServed) {
  TestServer server({.name = "test",
                     .max_connections = 10,
                     .max_calls_per_connection = 1000,
                     .max_unsent_bytes = 1 << 20,
                     .on_disconnect = nullptr});
  UniqueFd deaf = server.Connect();
  const UniqueFd good = server.Connect();
  std::thread writer([&] {
    uint32_t id = 1;
    while (
        WriteAll(deaf, RequestFrame(id, "test.Echo", "Big", MakeMessage("100000"))).has_value() &&
        id < 2000) {
      id += 2;
    }
  });
  ASSERT_TRUE(WriteAll(good, RequestFrame(1, "test.Echo", "Echo", MakeMessage("hi"))).has_value());
  EXPECT_EQ(ResponseCode(ReadFrame(good)), Code::kOk);
  EXPECT_TRUE(server.WaitForConnections(1));
  writer.join();
}

TEST(ServerTest, CallsInFlightAreBounded) {
  TestServer server({.name = "test",
                     .max_connections = 10,
                     .max_calls_per_connection = 2,
                     .max_unsent_bytes = 1 << 20,
                     .on_disconnect = nullptr});
  const UniqueFd fd = server.Connect();
  ASSERT_TRUE(WriteAll(fd, RequestFrame(1, "test.Echo", "Never", {}) +
                               RequestFrame(3, "test.Echo", "Never", {}) +
                               RequestFrame(5, "test.Echo", "Echo", {}))
                  .has_value());
  const Frame frame = ReadFrame(fd);
  EXPECT_EQ(frame.header.stream_id, 5U);
  EXPECT_EQ(ResponseCode(frame), Code::kResourceExhausted);
}

TEST(ServerTest, ThousandConnectionsAndTheOneTooMany) {
  rlimit limit{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);
  limit.rlim_cur = limit.rlim_max;
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
  if (limit.rlim_cur < 2200) {
    GTEST_SKIP() << "RLIMIT_NOFILE is " << limit.rlim_cur << ", 2200 are needed";
  }
  const std::string path = testing::TempDir() + "/ttrpc_server_test.sock";
  (void)std::filesystem::remove(path);
  TestServer server({.name = "test",
                     .max_connections = 1000,
                     .max_calls_per_connection = 10,
                     .max_unsent_bytes = 1 << 20,
                     .on_disconnect = nullptr});
  UniqueFd listener = Must(ListenUnix(path, 0600));
  server.OnLoop([&] {
    EXPECT_TRUE(server.server().Listen(std::move(listener), PeerIsRootOrSelf).has_value());
  });
  std::vector<UniqueFd> clients;
  clients.reserve(1000);
  for (int i = 0; i < 1000; ++i) {
    clients.push_back(Must(ConnectUnix(path)));
  }
  for (const UniqueFd& client : clients) {
    ASSERT_TRUE(
        WriteAll(client, RequestFrame(1, "test.Echo", "Echo", MakeMessage("hi"))).has_value());
  }
  for (const UniqueFd& client : clients) {
    ASSERT_EQ(ResponseCode(ReadFrame(client)), Code::kOk);
  }
  EXPECT_EQ(server.Connections(), 1000U);
  const UniqueFd surplus = Must(ConnectUnix(path));
  std::byte byte{};
  EXPECT_EQ(Must(ReadSome(surplus, std::span(&byte, 1))), 0U);
  clients.clear();
  EXPECT_TRUE(server.WaitForConnections(0));
  std::filesystem::remove(path);
}

TEST(ServerTest, AcceptFilterRefuses) {
  const std::string path = testing::TempDir() + "/ttrpc_filter_test.sock";
  (void)std::filesystem::remove(path);
  TestServer server;
  UniqueFd listener = Must(ListenUnix(path, 0600));
  // A unix peer is not the host of a virtual machine.
  server.OnLoop([&] {
    EXPECT_TRUE(server.server().Listen(std::move(listener), PeerIsVsockHost).has_value());
  });
  const UniqueFd client = Must(ConnectUnix(path));
  std::byte byte{};
  EXPECT_EQ(Must(ReadSome(client, std::span(&byte, 1))), 0U);
  std::filesystem::remove(path);
}

TEST(BlockingPoolTest, MoreBlockedCallsThanAnyCapStillLetOthersThrough) {
  BlockingPool pool("test-pool", 50ms);
  std::mutex mu;
  std::condition_variable changed;
  bool open = false;
  int waiting = 0;
  for (int i = 0; i < 100; ++i) {
    pool.Run([&] {
      std::unique_lock lock(mu);
      ++waiting;
      changed.notify_all();
      changed.wait(lock, [&] { return open; });
    });
  }
  {
    std::unique_lock lock(mu);
    ASSERT_TRUE(changed.wait_for(lock, 10s, [&] { return waiting == 100; }));
  }
  pool.Run([&] {
    const std::lock_guard lock(mu);
    open = true;
    changed.notify_all();
  });
  for (int i = 0; i < 1000 && pool.thread_count() > 0; ++i) {
    std::this_thread::sleep_for(5ms);
  }
  EXPECT_EQ(pool.thread_count(), 0U);
}

}  // namespace
}  // namespace wyvern::ttrpc
