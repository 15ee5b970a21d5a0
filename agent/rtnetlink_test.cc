#include "agent/rtnetlink.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <climits>
#include <string>

#include "agent/network_links.h"

namespace wyvern::agent {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

std::span<const std::byte> Bytes(const std::string& text) {
  return std::as_bytes(std::span(text));
}

std::string Message(uint16_t type, uint32_t sequence, const std::string& payload,
                    uint16_t flags = 0) {
  const nlmsghdr header{.nlmsg_len = static_cast<uint32_t>(sizeof(nlmsghdr) + payload.size()),
                        .nlmsg_type = type,
                        .nlmsg_flags = flags,
                        .nlmsg_seq = sequence,
                        .nlmsg_pid = 0};
  std::string out(reinterpret_cast<const char*>(&header), sizeof(header));
  out += payload;
  out.resize(NLMSG_ALIGN(out.size()));
  return out;
}

std::string Attribute(uint16_t type, const std::string& value) {
  const nlattr header{.nla_len = static_cast<uint16_t>(NLA_HDRLEN + value.size()),
                      .nla_type = type};
  std::string out(reinterpret_cast<const char*>(&header), sizeof(header));
  out += value;
  out.resize(NLA_ALIGN(out.size()));
  return out;
}

// NLMSG_ERROR with `text` behind the request's header, or behind as much of a request.
std::string ErrorMessage(int number, const std::string& text, size_t request = 0) {
  nlmsgerr error{};
  error.error = -number;
  error.msg.nlmsg_len = static_cast<uint32_t>(sizeof(nlmsghdr) + request);
  std::string payload(reinterpret_cast<const char*>(&error), sizeof(error));
  payload.append(request, 'r');
  payload.resize(NLMSG_ALIGN(payload.size()));
  payload += Attribute(NLMSGERR_ATTR_MSG, text + std::string(1, '\0'));
  return Message(NLMSG_ERROR, 7, payload,
                 static_cast<uint16_t>(NLM_F_ACK_TLVS | (request == 0 ? NLM_F_CAPPED : 0)));
}

Result<NetlinkProgress> Read(const std::string& datagram, int* handled = nullptr) {
  return ReadDatagram(Bytes(datagram), 7, [&](const NetlinkMessage&) {
    if (handled != nullptr) {
      ++*handled;
    }
  });
}

TEST(RtnetlinkTest, MessagesThatDoNotAddUpAreErrors) {
  EXPECT_FALSE(Read("short"));
  std::string message = Message(RTM_NEWLINK, 7, "payload");
  message.resize(message.size() - 4);
  EXPECT_FALSE(Read(message));
  message = Message(RTM_NEWLINK, 7, "");
  for (const uint32_t length : {0U, 15U, 17U, 0xffffffffU}) {
    std::memcpy(message.data(), &length, sizeof(length));
    EXPECT_FALSE(Read(message)) << length;
  }
  EXPECT_FALSE(Read(Message(NLMSG_ERROR, 7, "abc")));
}

TEST(RtnetlinkTest, AnErrorHasTheKernelsNumberAndText) {
  for (const size_t request : {size_t{0}, size_t{5}, size_t{64}}) {
    const auto read = Read(ErrorMessage(ENETUNREACH, "Nexthop has invalid gateway", request));
    ASSERT_FALSE(read);
    EXPECT_EQ(read.error().sys_errno(), ENETUNREACH);
    EXPECT_THAT(read.error().message(), HasSubstr("Nexthop has invalid gateway: "));
  }
  const auto plain = Read(ErrorMessage(EPERM, "\x1b[2J" + std::string(1000, 'x')));
  ASSERT_FALSE(plain);
  EXPECT_LT(plain.error().message().size(), 300U);
  EXPECT_EQ(plain.error().message().find('\x1b'), std::string::npos);
}

TEST(RtnetlinkTest, ARequestsLengthInAnErrorLeadsNowhere) {
  for (const uint32_t length : {0U, 1U, 15U, 1000U, 0x7fffffffU, 0xffffffffU}) {
    std::string message = ErrorMessage(EINVAL, "text", 8);
    std::memcpy(message.data() + sizeof(nlmsghdr) + offsetof(nlmsgerr, msg), &length,
                sizeof(length));
    const auto read = Read(message);
    ASSERT_FALSE(read);
    EXPECT_EQ(read.error().sys_errno(), EINVAL);
  }
}

TEST(RtnetlinkTest, AnErrorThatIsNoneOfLinuxsIsNotTakenForOne) {
  for (const int number : {-1, 4096, INT_MAX, INT_MIN + 1}) {
    const auto read = Read(ErrorMessage(number, "text"));
    ASSERT_FALSE(read);
    EXPECT_EQ(read.error().code(), Code::kInternal) << number;
  }
}

TEST(RtnetlinkTest, AnAcknowledgementIsTheEnd) {
  const auto read = Read(ErrorMessage(0, "a warning"));
  ASSERT_TRUE(read);
  EXPECT_TRUE(read->done);
}

TEST(RtnetlinkTest, AListEndsWithDoneAndSaysThatItChanged) {
  int handled = 0;
  const auto part = Read(Message(RTM_NEWLINK, 7, "") + Message(RTM_NEWLINK, 7, "x"), &handled);
  ASSERT_TRUE(part);
  EXPECT_FALSE(part->done);
  EXPECT_EQ(handled, 2);
  const auto end = Read(Message(RTM_NEWLINK, 7, "", NLM_F_DUMP_INTR) +
                        Message(NLMSG_DONE, 7, std::string(4, '\0')));
  ASSERT_TRUE(end);
  EXPECT_TRUE(end->done);
  EXPECT_TRUE(end->interrupted);
  const int error = -ENOBUFS;
  const auto early = Read(
      Message(NLMSG_DONE, 7, std::string(reinterpret_cast<const char*>(&error), sizeof(error))));
  ASSERT_FALSE(early);
  EXPECT_EQ(early.error().sys_errno(), ENOBUFS);
}

TEST(RtnetlinkTest, WhatIsOfAnotherRequestIsLeftOut) {
  int handled = 0;
  std::string late = ErrorMessage(EINVAL, "late");
  const uint32_t sequence = 6;
  std::memcpy(late.data() + offsetof(nlmsghdr, nlmsg_seq), &sequence, sizeof(sequence));
  const auto read = Read(Message(RTM_NEWLINK, 6, "") + late + Message(NLMSG_NOOP, 7, ""), &handled);
  ASSERT_TRUE(read) << read.error().message();
  EXPECT_FALSE(read->done);
  EXPECT_EQ(handled, 0);
}

TEST(RtnetlinkTest, AttributesEndWhereOneDoesNotAddUp) {
  const std::string good = Attribute(1, "abcd") + Attribute(2, "text");
  EXPECT_EQ(NetlinkAttributes(Bytes(good)).Text(2), "text");
  EXPECT_TRUE(NetlinkAttributes(Bytes(good)).Number(1));
  EXPECT_FALSE(NetlinkAttributes(Bytes(good)).Number(3));
  EXPECT_FALSE(NetlinkAttributes(Bytes(Attribute(1, "abc"))).Number(1));
  for (const uint16_t length : {uint16_t{0}, uint16_t{3}, uint16_t{17}, uint16_t{0xffff}}) {
    std::string bad = Attribute(1, "abcd") + Attribute(2, "text");
    std::memcpy(bad.data(), &length, sizeof(length));
    EXPECT_FALSE(NetlinkAttributes(Bytes(bad)).Find(1)) << length;
    EXPECT_FALSE(NetlinkAttributes(Bytes(bad)).Find(2)) << length;
  }
  EXPECT_EQ(NetlinkAttributes(Bytes(Attribute(1, std::string("a\0b", 3)))).Text(1), "a");
}

TEST(RtnetlinkTest, NestedAttributesHaveTheirLength) {
  NetlinkRequest request(RTM_NEWROUTE, 0, rtmsg{});
  const size_t outer = request.Begin(RTA_METRICS);
  request.Add(RTAX_MTU, uint32_t{1400});
  request.End(outer);
  request.AddText(RTA_PREF, "odd");
  const auto bytes = request.Finish(NLM_F_ACK, 9);
  nlmsghdr header{};
  std::memcpy(&header, bytes.data(), sizeof(header));
  EXPECT_EQ(header.nlmsg_len, bytes.size());
  EXPECT_EQ(header.nlmsg_seq, 9U);
  const NetlinkAttributes attributes(bytes.subspan(NLMSG_LENGTH(sizeof(rtmsg))));
  const auto metrics = attributes.Find(RTA_METRICS);
  ASSERT_TRUE(metrics);
  EXPECT_EQ(NetlinkAttributes(*metrics).Number(RTAX_MTU), 1400U);
  EXPECT_EQ(attributes.Text(RTA_PREF), "odd");
}

WantedInterface Of(const MacAddress& mac) {
  WantedInterface interface;
  interface.mac = mac;
  return interface;
}

TEST(MatchLinksTest, ADeviceIsFoundByTheMacItWasMadeWith) {
  const MacAddress one = {2, 0, 0, 0, 0, 1};
  const MacAddress two = {2, 0, 0, 0, 0, 2};
  const MacAddress three = {2, 0, 0, 0, 0, 3};
  // A bridge has its port's; a container has exchanged those of two devices.
  const std::vector<Link> links = {
      {.index = 5, .name = "br0", .mac = one, .made = true},
      {.index = 2, .name = "eth0", .mac = two, .permanent = one},
      {.index = 3, .name = "eth1", .mac = one, .permanent = two},
  };
  EXPECT_THAT(MatchLinks({Of(one), Of(two), Of(three)}, links), ElementsAre(1U, 2U, 3U));
  EXPECT_THAT(MatchLinks({Of(one)}, {links[0]}), ElementsAre(0U));
}

}  // namespace
}  // namespace wyvern::agent
