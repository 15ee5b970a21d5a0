#include "observe/http_request.h"

#include <gtest/gtest.h>

namespace wyvern::observe {
namespace {

TEST(HttpRequestTest, MethodAndPathWithoutTheQuery) {
  for (const char* head :
       {"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", "GET /metrics?a=b HTTP/1.0\n\n"}) {
    ASSERT_TRUE(IsWholeHead(head));
    const auto request = ParseRequestHead(head);
    ASSERT_TRUE(request.has_value()) << head;
    EXPECT_EQ(request->method, "GET");
    EXPECT_EQ(request->path, "/metrics");
  }
}

TEST(HttpRequestTest, OthersAreNone) {
  const std::string endless = "GET /" + std::string(kMaxRequestHead, 'a') + " HTTP/1.1\r\n\r\n";
  for (const std::string& head :
       {std::string(), std::string("\n\n"), std::string("GET\r\n\r\n"),
        std::string("GET /metrics\r\n\r\n"), std::string("GET  HTTP/1.1\r\n\r\n"),
        std::string("get / HTTP/1.1\r\n\r\n"), std::string("GET metrics HTTP/1.1\r\n\r\n"),
        std::string("GET / HTTP/2.0\r\n\r\n"), std::string("GET / HTTP/1.x\r\n\r\n"),
        std::string("GET /a b HTTP/1.1\r\n\r\n"), std::string("GET /\0 HTTP/1.1\r\n\r\n", 20),
        std::string("GET /\x80 HTTP/1.1\r\n\r\n"), endless}) {
    EXPECT_FALSE(ParseRequestHead(head).has_value()) << head;
  }
}

TEST(HttpRequestTest, HeadIsWholeWithItsEmptyLine) {
  EXPECT_FALSE(IsWholeHead("GET / HTTP/1.1\r\nHost: x\r\n"));
  EXPECT_FALSE(IsWholeHead(""));
  EXPECT_TRUE(IsWholeHead("GET / HTTP/1.1\r\n\r\n"));
}

TEST(HttpRequestTest, AnswerTellsItsLength) {
  EXPECT_EQ(HttpAnswer(200, "OK", "text/plain", "hi\n"),
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 3\r\n"
            "Connection: close\r\n\r\nhi\n");
  EXPECT_TRUE(HttpAnswer(200, "OK", "t", "hi", true).ends_with("\r\n\r\n"));
}

}  // namespace
}  // namespace wyvern::observe
