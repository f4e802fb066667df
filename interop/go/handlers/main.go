// The API server's own stream handlers, and nothing else of it: what a relay of ours is measured
// beside. Requests for a pod's exec or its ports go to one kubelet, over SPDY.
package main

import (
	"crypto/tls"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"net/url"
	"strings"

	genericproxy "k8s.io/apimachinery/pkg/util/proxy"
	"k8s.io/apiserver/pkg/util/proxy"
	"k8s.io/streaming/pkg/httpstream/wsstream"
)

type responder struct{}

func (responder) Error(w http.ResponseWriter, _ *http.Request, err error) {
	http.Error(w, err.Error(), http.StatusInternalServerError)
}

type server struct {
	kubelet   url.URL
	transport http.RoundTripper
}

// ServeHTTP takes what a kubelet takes: the test's client already asks in the kubelet's words.
func (s server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	location := s.kubelet
	location.Path, location.RawQuery = r.URL.Path, r.URL.RawQuery
	if wsstream.IsWebSocketRequestWithTunnelingProtocol(r) {
		as := genericproxy.NewUpgradeAwareHandler(&location, s.transport, false, true, responder{})
		proxy.NewTunnelingHandler(as).ServeHTTP(w, r)
		return
	}
	asks := func(name string) bool { return r.URL.Query().Get(name) == "1" }
	options := proxy.Options{Stdin: asks("input"), Stdout: asks("output"), Stderr: asks("error")}
	as := genericproxy.NewUpgradeAwareHandler(&location, s.transport, false, true, responder{})
	translator := proxy.NewStreamTranslatorHandler(&location, s.transport, 0, options)
	takes := wsstream.IsWebSocketRequestWithStreamCloseProtocol
	proxy.NewTranslatingHandler(as, translator, takes).ServeHTTP(w, r)
}

func main() {
	kubelet := flag.String("kubelet", "", "the kubelet's URL")
	certificate := flag.String("certificate", "", "serve TLS with this")
	key := flag.String("key", "", "and this key")
	flag.Parse()
	log.SetFlags(0)
	location, err := url.Parse(*kubelet)
	if err != nil {
		log.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	trust := &tls.Config{InsecureSkipVerify: strings.HasPrefix(*kubelet, "https:")}
	handler := server{*location, &http.Transport{TLSClientConfig: trust}}
	if *certificate == "" {
		fmt.Printf("serving on http://%s\n", listener.Addr())
		log.Fatal(http.Serve(listener, handler))
	}
	fmt.Printf("serving on https://%s\n", listener.Addr())
	// Without HTTP/2, which no stream of Kubernetes is upgraded from.
	plain := &http.Server{Handler: handler, TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){}}
	log.Fatal(plain.ServeTLS(listener, *certificate, *key))
}
