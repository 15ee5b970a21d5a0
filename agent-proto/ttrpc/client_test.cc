#include "ttrpc/client.h"

#include <gtest/gtest.h>

#include <atomic>

#include "ttrpc/blocking.h"
#include "ttrpc/testing/harness.h"

namespace wyvern::ttrpc {
namespace {

struct ClientAndPeer {
  std::unique_ptr<Client> client;
  UniqueFd peer;
};

ClientAndPeer MakeClient(ClientOptions options = {}) {
  auto pair = Must(MakeSocketPair(SOCK_STREAM));
  const timeval timeout{.tv_sec = 10, .tv_usec = 0};
  (void)setsockopt(pair.second.get(), SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
  return {Must(Client::Create(std::move(pair.first), std::move(options))), std::move(pair.second)};
}

TEST(ClientTest, GoldenUnaryTranscript) {
  auto [client, peer] = MakeClient();
  std::thread server([&peer = peer] {
    // stream 1, Request{service "test.Echo", method "Echo", payload, timeout_nano 1e11, metadata{"k": "v"}}
    EXPECT_EQ(ReadBytes(peer, 48), Hex("00000026 00000001 01 00"
                                       "0a09 746573742e4563686f 1204 4563686f 1a04 12026869"
                                       "20 80d0dbc3f402 2a06 0a016b 120176"));
    EXPECT_TRUE(WriteAll(peer, Hex("00000006 00000001 02 00 1204 12026869")).has_value());
  });
  const auto answer = client->Call<Message, Message>("test.Echo", "Echo", MakeMessage("hi"),
                                                     {.timeout = 100s, .metadata = {{"k", "v"}}});
  server.join();
  ASSERT_TRUE(answer.has_value()) << answer.error().message();
  EXPECT_EQ(answer->value(), "hi");
}

TEST(ClientTest, AnswersNobodyAskedForAreIgnored) {
  auto [client, peer] = MakeClient();
  std::thread server([&peer = peer] {
    (void)ReadFrame(peer);
    EXPECT_TRUE(WriteAll(peer, EncodeFrame(99, FrameType::kResponse, 0, "junk") +
                                   EncodeFrame(1, FrameType::kData, 0, "not a stream") +
                                   EncodeFrame(1, FrameType::kRequest, 0, "backwards") +
                                   EncodeFrame(1, static_cast<FrameType>(200), 0, "unknown") +
                                   Hex("00000006 00000001 02 00 1204 12026869") +
                                   Hex("00000006 00000001 02 00 1204 12026869"))
                    .has_value());
  });
  const auto answer = client->Call<Message, Message>("s", "m", {});
  server.join();
  ASSERT_TRUE(answer.has_value());
  EXPECT_EQ(answer->value(), "hi");
  EXPECT_FALSE(client->closed());
}

TEST(ClientTest, MalformedOversizeAndStrangeAnswersAreErrors) {
  auto [client, peer] = MakeClient();
  std::thread server([&peer = peer] {
    (void)ReadFrame(peer);
    EXPECT_TRUE(WriteAll(peer, EncodeFrame(1, FrameType::kResponse, 0, "\xff\xff")).has_value());
    (void)ReadFrame(peer);
    const auto header =
        EncodeHeader({.length = kMaxData + 1, .stream_id = 3, .type = 2, .flags = 0});
    EXPECT_TRUE(WriteAll(peer, header).has_value());
    EXPECT_TRUE(WriteAll(peer, std::string(kMaxData + 1, 'x')).has_value());
    (void)ReadFrame(peer);
    EXPECT_TRUE(WriteAll(peer, Hex("00000006 00000005 02 00 0a04 08ffff03")).has_value());
    (void)ReadFrame(peer);
    EXPECT_TRUE(WriteAll(peer, Hex("00000004 00000007 02 00 1202 ffff")).has_value());
  });
  using Reply = Result<Message>;
  const Reply malformed = client->Call<Message, Message>("s", "m", {});
  const Reply oversize = client->Call<Message, Message>("s", "m", {});
  const Reply strange = client->Call<Message, Message>("s", "m", {});
  const Reply payload = client->Call<Message, Message>("s", "m", {});
  server.join();
  EXPECT_EQ(malformed.error().code(), Code::kDataLoss);
  EXPECT_EQ(oversize.error().code(), Code::kResourceExhausted);
  EXPECT_EQ(strange.error().code(), Code::kUnknown);
  EXPECT_EQ(payload.error().code(), Code::kDataLoss);
}

TEST(ClientTest, DeadlineExpiresAndTheLateAnswerIsIgnored) {
  auto [client, peer] = MakeClient();
  const auto expired = client->Call<Message, Message>("s", "m", {}, {.timeout = 30ms});
  ASSERT_FALSE(expired.has_value());
  EXPECT_EQ(expired.error().code(), Code::kDeadlineExceeded);
  std::thread server([&peer = peer] {
    (void)ReadFrame(peer);
    (void)ReadFrame(peer);
    EXPECT_TRUE(WriteAll(peer, Hex("00000006 00000001 02 00 1204 12026161") +
                                   Hex("00000006 00000003 02 00 1204 12026869"))
                    .has_value());
  });
  const auto answer = client->Call<Message, Message>("s", "m", {});
  server.join();
  ASSERT_TRUE(answer.has_value());
  EXPECT_EQ(answer->value(), "hi");
}

TEST(ClientTest, PeerGoneFailsCallsInFlightAndLaterOnes) {
  std::atomic<int> closed{0};
  auto [client, peer] = MakeClient(
      {.name = "test", .max_unsent_bytes = 1 << 20, .max_stream_messages = 16, .on_close = [&] {
         ++closed;
       }});
  std::thread killer([&peer = peer] {
    (void)ReadFrame(peer);
    peer.Reset();
  });
  const auto cut = client->Call<Message, Message>("s", "m", {});
  killer.join();
  ASSERT_FALSE(cut.has_value());
  EXPECT_EQ(cut.error().code(), Code::kUnavailable);
  const auto later = client->Call<Message, Message>("s", "m", {});
  EXPECT_EQ(later.error().code(), Code::kUnavailable);
  EXPECT_TRUE(client->closed());
  client.reset();
  EXPECT_EQ(closed, 1);
}

TEST(ClientTest, CloseAndWaitWaitsForTheCallbackThatRuns) {
  std::atomic<bool> begun{false};
  std::atomic<bool> over{false};
  ClientOptions options;
  options.on_close = [&] {
    begun = true;
    begun.notify_all();
    std::this_thread::sleep_for(200ms);
    over = true;
  };
  auto [client, peer] = MakeClient(std::move(options));
  peer.Reset();
  begun.wait(false);
  std::thread other([&client = client] { client->CloseAndWait(); });
  client->CloseAndWait();
  EXPECT_TRUE(over);
  other.join();
  EXPECT_EQ((client->Call<Message, Message>("s", "m", {}).error().code()), Code::kUnavailable);
}

TEST(ClientTest, ServerThatDoesNotReadCostsABoundedQueueAndNoBlockedCaller) {
  auto [client, peer] = MakeClient({.name = "test",
                                    .max_unsent_bytes = 1 << 20,
                                    .max_stream_messages = 16,
                                    .on_close = nullptr});
  std::atomic<int> exhausted{0};
  for (int i = 0; i < 100; ++i) {
    client->CallAsync<Message, Message>("s", "m", MakeMessage(std::string(100000, 'x')), {},
                                        [&](Result<Message> result) {
                                          if (result.error().code() == Code::kResourceExhausted) {
                                            ++exhausted;
                                          }
                                        });
  }
  EXPECT_GT(exhausted, 50);
  client.reset();
}

TEST(ClientTest, UnreadMessagesOfAStreamAreBoundedInNumberAndBytes) {
  for (const size_t size : {size_t{10}, size_t{400'000}, size_t{kMaxData}}) {
    ClientOptions options;
    options.max_stream_messages = 16;
    options.max_stream_bytes = 1 << 20;
    auto [client, peer] = MakeClient(std::move(options));
    auto stream = Must(client->OpenRawStream("s", "m", "", false, {}));
    (void)ReadFrame(peer);
    for (int i = 0; i < 20; ++i) {
      ASSERT_TRUE(
          WriteAll(peer, EncodeFrame(1, FrameType::kData, 0, std::string(size, 'x'))).has_value());
    }
    // The reader has had all of it when it answers a call behind it.
    std::thread server([&peer = peer] {
      (void)ReadFrame(peer);
      EXPECT_TRUE(WriteAll(peer, Hex("00000006 00000003 02 00 1204 12026869")).has_value());
    });
    EXPECT_TRUE((client->Call<Message, Message>("s", "m", {}).has_value()));
    server.join();
    const size_t kept = std::min<size_t>(16, std::max<size_t>(1, (1U << 20) / size));
    for (size_t i = 0; i < kept; ++i) {
      EXPECT_EQ(Must(stream.Read(10s)).value_or("").size(), size);
    }
    EXPECT_EQ(stream.Read(10s).error().code(), Code::kResourceExhausted);
  }
}

TEST(ClientTest, StreamThatIsReadTakesMoreThanItsBound) {
  ClientOptions options;
  options.max_stream_bytes = 1000;
  auto [client, peer] = MakeClient(std::move(options));
  auto stream = Must(client->OpenRawStream("s", "m", "", false, {}));
  (void)ReadFrame(peer);
  for (int i = 0; i < 20; ++i) {
    ASSERT_TRUE(
        WriteAll(peer, EncodeFrame(1, FrameType::kData, 0, std::string(600, 'x'))).has_value());
    EXPECT_EQ(Must(stream.Read(10s)).value_or("").size(), 600U);
  }
}

TEST(ClientAndServerTest, ManyThreadsShareAConnection) {
  TestServer server;
  auto client = Must(Client::Create(server.Connect()));
  std::vector<std::thread> threads;
  threads.reserve(8);
  std::atomic<int> good{0};
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 250; ++i) {
        const std::string text = std::to_string(t * 1000 + i);
        const auto answer = client->Call<Message, Message>("test.Echo", "Echo", MakeMessage(text),
                                                           {.timeout = 10s});
        good += answer.has_value() && answer->value() == text ? 1 : 0;
      }
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  EXPECT_EQ(good, 2000);
}

TEST(ClientAndServerTest, FourMiBBothWaysManyAtOnce) {
  TestServer server({.name = "test",
                     .max_connections = 10,
                     .max_calls_per_connection = 100,
                     .max_unsent_bytes = 256U << 20,
                     .on_disconnect = nullptr});
  auto client = Must(Client::Create(server.Connect(), {.name = "test",
                                                       .max_unsent_bytes = 256U << 20,
                                                       .max_stream_messages = 16,
                                                       .on_close = nullptr}));
  const std::string big(kMaxData - 100, 'b');
  std::atomic<int> good{0};
  std::atomic<int> done{0};
  for (int i = 0; i < 16; ++i) {
    client->CallAsync<Message, Message>("test.Echo", "Echo", MakeMessage(big), {.timeout = 30s},
                                        [&](Result<Message> result) {
                                          good += result && result->value() == big ? 1 : 0;
                                          ++done;
                                          done.notify_all();
                                        });
  }
  for (int seen = done; seen < 16; seen = done) {
    done.wait(seen);
  }
  EXPECT_EQ(good, 16);
}

TEST(ClientAndServerTest, AnswersFromOtherThreadsAndCodes) {
  TestServer server;
  BlockingPool pool("test-pool");
  server.OnLoop([&] {
    server.server().RegisterUnary<Message, Message>(
        "test.Slow", "Slow",
        Blocking<Message, Message>(
            pool, [](const Message& request, const CallContext&) -> Result<Message> {
              std::this_thread::sleep_for(20ms);
              return request;
            }));
  });
  auto client = Must(Client::Create(server.Connect()));
  EXPECT_EQ(Must(client->Call<Message, Message>("test.Slow", "Slow", MakeMessage("x"))).value(),
            "x");
  const auto failed = client->Call<Message, Message>("test.Echo", "Fail", {});
  EXPECT_EQ(failed.error().code(), Code::kNotFound);
  EXPECT_EQ(failed.error().message(), "no such thing");
}

TEST(ClientAndServerTest, StreamsEndWellOrWithTheirError) {
  TestServer server;
  auto client = Must(Client::Create(server.Connect()));
  auto stream =
      Must(client->OpenStream<Message, Message>("test.Echo", "Count", MakeMessage("300")));
  for (int i = 0; i < 300; ++i) {
    ASSERT_EQ(Must(stream.Read(10s)).value_or(Message()).value(), std::to_string(i));
  }
  EXPECT_FALSE(Must(stream.Read(10s)).has_value());

  Message failing = MakeMessage("1");
  failing.set_key("fail");
  auto failed = Must(client->OpenStream<Message, Message>("test.Echo", "Count", failing));
  EXPECT_TRUE(Must(failed.Read(10s)).has_value());
  EXPECT_EQ(failed.Read(10s).error().code(), Code::kAborted);

  auto missing = Must(client->OpenStream<Message, Message>("test.Echo", "Nope", {}));
  EXPECT_EQ(missing.Read(10s).error().code(), Code::kUnimplemented);
}

TEST(ClientAndServerTest, BidirectionalStream) {
  TestServer server;
  auto client = Must(Client::Create(server.Connect()));
  auto stream = Must(client->OpenRawStream("test.Echo", "Reverse", "", true, {}));
  ASSERT_TRUE(stream.Send("abc").has_value());
  EXPECT_EQ(Must(stream.Read(10s)), "cba");
  ASSERT_TRUE(stream.Send("").has_value());
  EXPECT_EQ(Must(stream.Read(10s)), "");
  ASSERT_TRUE(stream.CloseSend().has_value());
  EXPECT_FALSE(Must(stream.Read(10s)).has_value());
}

// Who is refused because the other end has gone can tell that from an answer.
TEST(ClientTest, ConnectionIsClosedFromTheFirstWriteThatFails) {
  for (int i = 0; i < 50; ++i) {
    auto pair = Must(MakeSocketPair(SOCK_STREAM));
    auto client = Must(Client::Create(std::move(pair.second)));
    pair.first.Reset();
    const auto answer = client->Call<Message, Message>("test.Echo", "Echo", MakeMessage("x"));
    ASSERT_FALSE(answer);
    EXPECT_EQ(answer.error().code(), Code::kUnavailable);
    EXPECT_TRUE(client->closed());
  }
}

}  // namespace
}  // namespace wyvern::ttrpc
