#include "control/exec_stream.h"

#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "base/log.h"

namespace wyvern::shim {

namespace pb = wyvern::control::v1;

ExecStream::ExecStream(EventLoop& loop, runtime::ProcessIo io, bool acknowledged,
                       ttrpc::RawStream stream)
    : loop_(loop),
      acknowledged_(acknowledged),
      stream_(std::move(stream)),
      outputs_{{{1, std::move(io.stdout_stream)}, {2, std::move(io.stderr_stream)}}},
      input_(std::move(io.stdin_stream)) {}

void ExecStream::Start() {
  for (Output& output : outputs_) {
    if (!output.fd.valid()) {
      continue;
    }
    (void)SetNonBlocking(output.fd, true);
    auto token = loop_.Add(output.fd, EPOLLIN, [self = shared_from_this(), &output](uint32_t) {
      self->ReadOutput(output);
    });
    if (!token) {
      EndOutput(output);
      continue;
    }
    output.token = *token;
  }
  if (input_.valid()) {
    (void)SetNonBlocking(input_, true);
  }
}

void ExecStream::ReadOutput(Output& output) {
  std::string data(kChunk, '\0');
  const ssize_t got = read(output.fd.get(), data.data(), data.size());
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) {
    return;
  }
  if (got <= 0) {
    EndOutput(output);
    return;
  }
  if (detached_) {
    return;
  }
  pb::StreamData message;
  message.set_stream(output.number);
  data.resize(static_cast<size_t>(got));
  message.set_data(std::move(data));
  if (!stream_.Send(message.SerializeAsString())) {
    Detach();
    return;
  }
  if (acknowledged_ && ++output.unacknowledged >= kWindow) {
    // Taken out of the loop: a hang-up would be reported again and again even with no events asked for.
    loop_.Remove(std::exchange(output.token, EventLoop::Token::kNone));
  }
}

void ExecStream::EndOutput(Output& output) {
  loop_.Remove(std::exchange(output.token, EventLoop::Token::kNone));
  output.fd.Reset();
  if (detached_) {
    return;
  }
  pb::StreamData message;
  message.set_stream(output.number);
  message.set_eof(true);
  (void)stream_.Send(message.SerializeAsString());
  if (!outputs_[0].fd.valid() && !outputs_[1].fd.valid()) {
    stream_.Finish();
    finished_ = true;
    detached_ = true;
    CloseInput();
  }
}

void ExecStream::OnMessage(const pb::StreamData& message) {
  if (message.stream() != 0) {
    for (Output& output : outputs_) {
      if (output.number != message.stream() || output.unacknowledged == 0) {
        continue;
      }
      --output.unacknowledged;
      if (output.fd.valid() && output.token == EventLoop::Token::kNone) {
        auto token = loop_.Add(output.fd, EPOLLIN, [self = shared_from_this(), &output](uint32_t) {
          self->ReadOutput(output);
        });
        output.token = token.value_or(EventLoop::Token::kNone);
      }
    }
    return;
  }
  if (!input_.valid()) {
    return;
  }
  if (pending_input_.size() + message.data().size() > kMaxPendingInput) {
    WV_WARN_LIMITED("control: input of an exec dropped: the process does not read it");
  } else {
    pending_input_ += message.data();
    untold_input_ += message.data().empty() ? 0 : 1;
  }
  input_ended_ = input_ended_ || message.eof();
  WriteInput();
}

void ExecStream::WriteInput() {
  while (!pending_input_.empty()) {
    const ssize_t put =
        send(input_.get(), pending_input_.data(), pending_input_.size(), MSG_NOSIGNAL);
    if (put < 0 && errno == EINTR) {
      continue;
    }
    if (put < 0 && errno == EAGAIN) {
      if (input_token_ == EventLoop::Token::kNone) {
        auto token = loop_.Add(input_, EPOLLOUT,
                               [self = shared_from_this()](uint32_t) { self->WriteInput(); });
        input_token_ = token.value_or(EventLoop::Token::kNone);
      }
      return;
    }
    if (put < 0) {
      CloseInput();
      return;
    }
    pending_input_.erase(0, static_cast<size_t>(put));
  }
  loop_.Remove(std::exchange(input_token_, EventLoop::Token::kNone));
  for (; untold_input_ > 0; --untold_input_) {
    if (acknowledged_ && !detached_) {
      (void)stream_.Send(pb::StreamData().SerializeAsString());
    }
  }
  if (input_ended_) {
    shutdown(input_.get(), SHUT_WR);
  }
}

void ExecStream::CloseInput() {
  loop_.Remove(std::exchange(input_token_, EventLoop::Token::kNone));
  pending_input_.clear();
  input_.Reset();
}

void ExecStream::Detach() {
  if (std::exchange(detached_, true)) {
    return;
  }
  stream_ = ttrpc::RawStream();
  CloseInput();
  for (Output& output : outputs_) {
    if (output.fd.valid() && output.token == EventLoop::Token::kNone) {
      auto token = loop_.Add(output.fd, EPOLLIN, [self = shared_from_this(), &output](uint32_t) {
        self->ReadOutput(output);
      });
      output.token = token.value_or(EventLoop::Token::kNone);
    }
  }
}

}  // namespace wyvern::shim
