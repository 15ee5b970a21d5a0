#include "stdio/stream_hub.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <set>
#include <thread>

#include "base/loop_thread.h"
#include "base/testing/must.h"
#include "base/unix_socket.h"
#include "testing/stream_client.h"

namespace wyvern::shim {
namespace {

using std::chrono::milliseconds;

class StreamHubTest : public ::testing::Test {
 protected:
  StreamHubTest() {
    signal(SIGPIPE, SIG_IGN);
    loop_->Call([this] {
      server_ = Must(ttrpc::Server::Create(loop_->loop()));
      hub_->Register(*server_);
    });
    client_ = Connect();
  }

  ~StreamHubTest() override {
    client_.reset();
    loop_->Call([this] { server_.reset(); });
    hub_.reset();
    loop_->Call([] {});
  }

  std::unique_ptr<ttrpc::Client> Connect() {
    SocketPair pair = Must(MakeSocketPair(SOCK_STREAM));
    loop_->Call([&] { ASSERT_TRUE(server_->Adopt(std::move(pair.second))); });
    return Must(ttrpc::Client::Create(std::move(pair.first)));
  }

  StreamClient Open(const std::string& id) { return Must(StreamClient::Open(*client_, id)); }

  StreamHub::Lease OpenOutput(const std::string& id) {
    return Must(hub_->OpenOutput(id, &output_));
  }

  StreamHub::Lease OpenInput(const std::string& id) { return Must(hub_->OpenInput(id, &input_)); }

  void Write(const std::string& text) { ASSERT_TRUE(WriteAll(output_.writer, text)); }

  static std::string Next(StreamClient& stream) {
    const auto data = stream.Read();
    return data ? data->value_or("(end)") : "(" + data.error().message() + ")";
  }

  static Code End(StreamClient& stream) {
    while (true) {
      const auto data = stream.Read();
      if (!data) {
        return data.error().code();
      }
      if (!*data) {
        return Code::kOk;
      }
    }
  }

  std::unique_ptr<LoopThread> loop_ = Must(LoopThread::Start("streams"));
  std::shared_ptr<StreamHub> hub_ = StreamHub::Create(loop_->loop());
  std::unique_ptr<ttrpc::Server> server_;
  std::unique_ptr<ttrpc::Client> client_;
  OutputEnds output_;
  StdinEnds input_;
};

TEST_F(StreamHubTest, ClientThatComesFirstAsContainerdDoes) {
  StreamClient stream = Open("c-stdout");
  ASSERT_TRUE(stream.Grant(65536));
  const StreamHub::Lease lease = OpenOutput("c-stdout");
  Write("hello");
  EXPECT_EQ(Next(stream), "hello");
  output_.writer.Reset();
  EXPECT_EQ(Next(stream), "(end)");
}

TEST_F(StreamHubTest, MuchOutputArrivesWhole) {
  const StreamHub::Lease lease = OpenOutput("o");
  StreamClient stream = Open("o");
  std::string data(10 << 20, 'a');
  for (size_t i = 0; i < data.size(); i += 7) {
    data[i] = static_cast<char>(i);
  }
  std::thread process([&] {
    Write(data);
    output_.writer.Reset();
  });
  const std::string got = stream.ReadAll();
  process.join();
  EXPECT_EQ(got.size(), data.size());
  EXPECT_TRUE(got == data);
}

TEST_F(StreamHubTest, NothingIsSentBeyondWhatWasGranted) {
  const StreamHub::Lease lease = OpenOutput("o");
  StreamClient stream = Open("o");
  Write(std::string(300, 'x'));
  EXPECT_EQ(stream.Read(milliseconds(100)).error().code(), Code::kDeadlineExceeded);
  ASSERT_TRUE(stream.Grant(100));
  EXPECT_EQ(Next(stream).size(), 100U);
  EXPECT_EQ(stream.Read(milliseconds(100)).error().code(), Code::kDeadlineExceeded);
  ASSERT_TRUE(stream.Grant(1000));
  EXPECT_EQ(Next(stream).size(), 200U);
}

TEST_F(StreamHubTest, ClientThatGrantsNothingIsBackPressureAndHoldsNobodyUp) {
  const StreamHub::Lease lease = OpenOutput("stalled");
  const StreamClient stalled = Open("stalled");
  ASSERT_TRUE(SetNonBlocking(output_.writer, true));
  size_t taken = 0;
  while (WriteAll(output_.writer, std::string(4096, 'x'))) {
    taken += 4096;
    ASSERT_LT(taken, size_t{1} << 20);
  }
  OutputEnds other;
  const StreamHub::Lease lease2 = Must(hub_->OpenOutput("other", &other));
  StreamClient stream = Open("other");
  ASSERT_TRUE(stream.Grant(10));
  ASSERT_TRUE(WriteAll(other.writer, std::string_view("fine")));
  EXPECT_EQ(Next(stream), "fine");
}

TEST_F(StreamHubTest, ClientThatGoesAndComesBackGoesOn) {
  const StreamHub::Lease lease = OpenOutput("o");
  {
    const auto connection = Connect();
    StreamClient first = Must(StreamClient::Open(*connection, "o"));
    ASSERT_TRUE(first.Grant(65536));
    Write("one");
    EXPECT_EQ(Next(first), "one");
  }
  std::this_thread::sleep_for(milliseconds(50));
  Write("two");
  std::this_thread::sleep_for(milliseconds(50));
  StreamClient second = Open("o");
  ASSERT_TRUE(second.Grant(65536));
  EXPECT_EQ(Next(second), "two");
  output_.writer.Reset();
  EXPECT_EQ(Next(second), "(end)");
}

TEST_F(StreamHubTest, SecondClientOfAnIdTakesItOver) {
  StreamClient waiting = Open("o");
  StreamClient first = Open("o");
  EXPECT_EQ(Next(waiting), "(end)");
  const StreamHub::Lease lease = OpenOutput("o");
  StreamClient second = Open("o");
  EXPECT_EQ(Next(first), "(end)");
  ASSERT_TRUE(second.Grant(65536));
  Write("mine");
  EXPECT_EQ(Next(second), "mine");
}

TEST_F(StreamHubTest, OutputThatHasEndedTellsSoAtOnce) {
  const StreamHub::Lease lease = OpenOutput("o");
  StreamClient first = Open("o");
  output_.writer.Reset();
  ASSERT_TRUE(first.Grant(1));
  EXPECT_EQ(Next(first), "(end)");
  StreamClient late = Open("o");
  EXPECT_EQ(Next(late), "(end)");
}

TEST_F(StreamHubTest, ReleasedOutputIsItsClientsToTheEnd) {
  StreamClient stream = Open("o");
  {
    const StreamHub::Lease lease = OpenOutput("o");
    Write("last words");
  }
  output_ = {};
  ASSERT_TRUE(stream.Grant(4));
  EXPECT_EQ(Next(stream), "last");
  // The id is free again meanwhile.
  const StreamHub::Lease again = OpenOutput("o");
  ASSERT_TRUE(stream.Grant(100));
  EXPECT_EQ(Next(stream), " words");
  EXPECT_EQ(Next(stream), "(end)");
}

TEST_F(StreamHubTest, ReleasedOutputWithoutAClientIsABrokenPipe) {
  { const StreamHub::Lease lease = OpenOutput("o"); }
  output_.own_reader.Reset();
  loop_->Call([] {});
  EXPECT_FALSE(WriteAll(output_.writer, std::string_view("x")));
}

TEST_F(StreamHubTest, InputArrivesWholeWithinWhatIsGranted) {
  const StreamHub::Lease lease = OpenInput("i");
  std::string data(3 << 20, 'i');
  for (size_t i = 0; i < data.size(); i += 11) {
    data[i] = static_cast<char>(i);
  }
  StreamClient stream = Open("i");
  std::thread client([&] {
    for (size_t sent = 0; sent < data.size();) {
      while (stream.granted() == 0) {
        ASSERT_TRUE(stream.Read());
      }
      ASSERT_LE(stream.granted(), StreamHub::kWindow);
      const std::string part = data.substr(sent, static_cast<size_t>(stream.granted()));
      ASSERT_TRUE(stream.SendData(part));
      sent += part.size();
    }
    ASSERT_TRUE(stream.CloseSend());
    lease.CloseInput();
  });
  const std::string got = Must(ReadToEnd(input_.reader, 4 << 20));
  client.join();
  EXPECT_TRUE(got == data) << got.size();
}

TEST_F(StreamHubTest, EndOfAClientIsNoEndOfInput) {
  const StreamHub::Lease lease = OpenInput("i");
  {
    StreamClient first = Open("i");
    EXPECT_EQ(Next(first), "");  // granted
    ASSERT_TRUE(first.SendData("one "));
    ASSERT_TRUE(first.CloseSend());
    EXPECT_EQ(End(first), Code::kOk);
  }
  StreamClient second = Open("i");
  EXPECT_EQ(Next(second), "");
  lease.CloseInput();
  loop_->Call([] {});                   // the hub has heard of it
  ASSERT_TRUE(second.SendData("two"));  // the end comes after what it has to say
  ASSERT_TRUE(second.CloseSend());
  EXPECT_EQ(Must(ReadToEnd(input_.reader, 100)), "one two");
}

TEST_F(StreamHubTest, InputOfAProcessThatDoesNotReadIsBounded) {
  const StreamHub::Lease lease = OpenInput("i");
  StreamClient stream = Open("i");
  size_t sent = 0;
  while (true) {
    if (stream.granted() == 0 && !stream.Read(milliseconds(200))) {
      break;  // no more is granted
    }
    if (stream.granted() > 0) {
      const auto part = static_cast<size_t>(stream.granted());
      ASSERT_TRUE(stream.SendData(std::string(part, 'x')));
      sent += part;
      ASSERT_LT(sent, size_t{1} << 20);
    }
  }
  EXPECT_GE(sent, size_t{128} << 10);  // the pipe, and a window
  // One byte more is the client's fault.
  ASSERT_TRUE(stream.SendData("x"));
  EXPECT_EQ(End(stream), Code::kResourceExhausted);
  // The next one goes on where there is room.
  StreamClient next = Open("i");
  EXPECT_EQ(next.Read(milliseconds(100)).error().code(), Code::kDeadlineExceeded);
  std::vector<std::byte> all(sent);
  ASSERT_TRUE(ReadExact(input_.reader, all));
  EXPECT_EQ(Next(next), "");
  EXPECT_GT(next.granted(), 0);
}

TEST_F(StreamHubTest, InputThatNobodyReadsAnyMoreEndsTheStream) {
  const StreamHub::Lease lease = OpenInput("i");
  StreamClient stream = Open("i");
  EXPECT_EQ(Next(stream), "");
  input_.reader.Reset();
  ASSERT_TRUE(stream.SendData("x"));
  EXPECT_EQ(End(stream), Code::kOk);
}

TEST_F(StreamHubTest, MessagesThatAreNoneEndTheirStreamAndNoOther) {
  const StreamHub::Lease lease = OpenOutput("o");
  StreamClient good = Open("o");
  const std::string init(
      "\x0a\x2b"
      "containerd.services.streaming.v1.StreamInit",
      45);
  for (const std::string& first :
       {std::string("\xff\xff\xff"), std::string(), init, init + std::string("\x12\x02\x0a\x00", 4),
        init + "\x12\x05garbl",
        std::string("\x0a\x1e"
                    "containerd.types.transfer.Data",
                    32)}) {
    StreamClient stream = Must(StreamClient::OpenUnnamed(*client_));
    ASSERT_TRUE(stream.SendRaw(first));
    EXPECT_EQ(End(stream), Code::kInvalidArgument) << first;
  }
  StreamClient long_id = Must(StreamClient::OpenUnnamed(*client_));
  ASSERT_TRUE(long_id.SendInit(std::string(StreamHub::kMaxId + 1, 'i')));
  EXPECT_EQ(End(long_id), Code::kInvalidArgument);
  StreamClient early = Open("nobody's");
  ASSERT_TRUE(early.SendData("x"));
  EXPECT_EQ(End(early), Code::kResourceExhausted);
  for (const int32_t window : {0, -1, std::numeric_limits<int32_t>::min()}) {
    StreamClient stream = Open("another's");
    ASSERT_TRUE(stream.Grant(window));
    EXPECT_EQ(End(stream), Code::kInvalidArgument) << window;
  }
  for (int i = 0; i < 4; ++i) {
    ASSERT_TRUE(good.Grant(std::numeric_limits<int32_t>::max()));  // as much as there is, no more
  }
  Write("unharmed");
  EXPECT_EQ(Next(good), "unharmed");
  ASSERT_TRUE(good.SendData("x"));
  EXPECT_EQ(End(good), Code::kInvalidArgument);
}

TEST_F(StreamHubTest, ThoseThatWaitAreBoundedAndMakeRoomWhenTheyGo) {
  std::vector<StreamClient> waiting;
  for (size_t i = 0; i < StreamHub::kMaxWaiting; ++i) {
    waiting.push_back(Open("w" + std::to_string(i)));
  }
  EXPECT_EQ(StreamClient::Open(*client_, "one more").error().code(), Code::kResourceExhausted);
  ASSERT_TRUE(waiting.back().CloseSend());
  EXPECT_EQ(End(waiting.back()), Code::kOk);
  EXPECT_TRUE(StreamClient::Open(*client_, "one more"));
}

}  // namespace
}  // namespace wyvern::shim
