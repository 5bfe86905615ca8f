// A management server on the reference implementation of OpAMP (opamp-go): it tells on standard output what it sees, line by line in
// JSON, and says what it is told to on standard input.
//
//	full         asks for everything with its next word
//	name <hex>   gives another instance uid with its next word
//	push         says its next word now, over a WebSocket
//	remote <hex> -<hex>  offers this configuration (hash, text) to every agent that does not tell of this hash
//
// It behaves as the example server of opamp-go: who is not known, or left a number out, is asked for everything.
package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"flag"
	"fmt"
	"log"
	"math/big"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/open-telemetry/opamp-go/protobufs"
	"github.com/open-telemetry/opamp-go/server"
	"github.com/open-telemetry/opamp-go/server/types"
)

type console struct {
	mu    sync.Mutex
	last  map[string]uint64
	full  bool
	name  []byte
	conns map[types.Connection][]byte
	// What is offered, and the hash of which each agent told last.
	hash, text []byte
	remote     map[string]string
}

func (c *console) tell(what map[string]any) {
	line, err := json.Marshal(what)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(string(line))
}

func values(attributes []*protobufs.KeyValue) map[string]string {
	all := map[string]string{}
	for _, attribute := range attributes {
		all[attribute.GetKey()] = attribute.GetValue().GetStringValue()
	}
	return all
}

// word is what is said next; the lock is held.
func (c *console) word(uid []byte) *protobufs.ServerToAgent {
	said := &protobufs.ServerToAgent{
		InstanceUid: uid,
		Capabilities: uint64(protobufs.ServerCapabilities_ServerCapabilities_AcceptsStatus |
			protobufs.ServerCapabilities_ServerCapabilities_AcceptsEffectiveConfig |
			protobufs.ServerCapabilities_ServerCapabilities_OffersRemoteConfig),
	}
	if c.full {
		said.Flags |= uint64(protobufs.ServerToAgentFlags_ServerToAgentFlags_ReportFullState)
		c.full = false
	}
	if c.name != nil {
		said.AgentIdentification = &protobufs.AgentIdentification{NewInstanceUid: c.name}
		c.name = nil
	}
	if c.hash != nil && c.remote[string(uid)] != string(c.hash) {
		files := map[string]*protobufs.AgentConfigFile{"": {Body: c.text, ContentType: "text/yaml"}}
		said.RemoteConfig = &protobufs.AgentRemoteConfig{
			Config: &protobufs.AgentConfigMap{ConfigMap: files}, ConfigHash: c.hash,
		}
	}
	return said
}

func (c *console) heard(_ context.Context, conn types.Connection, message *protobufs.AgentToServer) *protobufs.ServerToAgent {
	c.mu.Lock()
	defer c.mu.Unlock()
	uid := message.GetInstanceUid()
	what := map[string]any{
		"uid":          hex.EncodeToString(uid),
		"sequence":     message.GetSequenceNum(),
		"capabilities": message.GetCapabilities(),
		"disconnect":   message.GetAgentDisconnect() != nil,
		"unknown":      len(message.ProtoReflect().GetUnknown()),
	}
	if description := message.GetAgentDescription(); description != nil {
		what["identifying"] = values(description.GetIdentifyingAttributes())
		what["other"] = values(description.GetNonIdentifyingAttributes())
	}
	if health := message.GetHealth(); health != nil {
		parts := map[string]string{}
		for name, part := range health.GetComponentHealthMap() {
			parts[name] = strings.TrimSpace(part.GetStatus() + " " + part.GetLastError())
		}
		what["health"] = map[string]any{
			"healthy": health.GetHealthy(), "status": health.GetStatus(), "parts": parts,
			"started": health.GetStartTimeUnixNano(), "at": health.GetStatusTimeUnixNano(),
		}
	}
	if config := message.GetEffectiveConfig(); config != nil {
		what["config"] = string(config.GetConfigMap().GetConfigMap()[""].GetBody())
	}
	if remote := message.GetRemoteConfigStatus(); remote != nil {
		c.remote[string(uid)] = string(remote.GetLastRemoteConfigHash())
		what["remote"] = map[string]any{
			"hash": hex.EncodeToString(remote.GetLastRemoteConfigHash()), "status": remote.GetStatus().String(),
			"why": remote.GetErrorMessage(),
		}
	}
	before, known := c.last[string(uid)]
	if (!known && message.GetAgentDescription() == nil) || (known && message.GetSequenceNum() != before+1 && message.GetAgentDescription() == nil) {
		c.full = true
		what["asked"] = true
	}
	c.last[string(uid)] = message.GetSequenceNum()
	if _, open := c.conns[conn]; open {
		c.conns[conn] = uid
	}
	c.tell(what)
	return c.word(uid)
}

func (c *console) obey() {
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		c.mu.Lock()
		switch {
		case len(words) == 1 && words[0] == "full":
			c.full = true
		case len(words) == 2 && words[0] == "name":
			name, err := hex.DecodeString(words[1])
			if err != nil {
				log.Fatal(err)
			}
			c.name = name
		case len(words) == 3 && words[0] == "remote":
			hash, err := hex.DecodeString(words[1])
			if err != nil {
				log.Fatal(err)
			}
			text, err := hex.DecodeString(strings.TrimPrefix(words[2], "-"))
			if err != nil {
				log.Fatal(err)
			}
			c.hash, c.text = hash, text
		case len(words) == 1 && words[0] == "push":
			for conn, uid := range c.conns {
				if err := conn.Send(context.Background(), c.word(uid)); err != nil {
					log.Printf("push: %v", err)
				}
			}
		default:
			log.Fatalf("what is %q?", lines.Text())
		}
		c.mu.Unlock()
	}
	os.Exit(0) // whoever started us is gone
}

// selfSigned makes a certificate for 127.0.0.1 and writes it where the agent's `ca_file` looks for it.
func selfSigned(path string) (*tls.Config, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "opamp"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	var text bytes.Buffer
	if err := pem.Encode(&text, &pem.Block{Type: "CERTIFICATE", Bytes: der}); err != nil {
		return nil, err
	}
	if err := os.WriteFile(path, text.Bytes(), 0o600); err != nil {
		return nil, err
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, MinVersion: tls.VersionTLS12}, nil
}

func main() {
	listen := flag.String("listen", "127.0.0.1:0", "where")
	ca := flag.String("ca", "", "speak TLS, and write the certificate here")
	key := flag.String("key", "", "the X-Key that agents must show")
	flag.Parse()
	c := &console{last: map[string]uint64{}, conns: map[types.Connection][]byte{}, remote: map[string]string{}}
	settings := server.StartSettings{ListenEndpoint: *listen, ListenPath: "/v1/opamp"}
	if *ca != "" {
		config, err := selfSigned(*ca)
		if err != nil {
			log.Fatal(err)
		}
		settings.TLSConfig = config
	}
	settings.Callbacks = types.Callbacks{OnConnecting: func(request *http.Request) types.ConnectionResponse {
		if request.Header.Get("X-Key") != *key {
			return types.ConnectionResponse{Accept: false, HTTPStatusCode: http.StatusUnauthorized}
		}
		isWebSocket := request.Header.Get("Upgrade") != ""
		return types.ConnectionResponse{Accept: true, ConnectionCallbacks: types.ConnectionCallbacks{
			OnConnected: func(_ context.Context, conn types.Connection) {
				if isWebSocket {
					c.mu.Lock()
					defer c.mu.Unlock()
					c.conns[conn] = nil
					c.tell(map[string]any{"connected": len(c.conns)})
				}
			},
			OnMessage: c.heard,
			OnReadMessageError: func(_ types.Connection, _ int, _ []byte, err error) {
				c.tell(map[string]any{"error": err.Error()})
			},
			OnConnectionClose: func(conn types.Connection) {
				if isWebSocket {
					c.mu.Lock()
					defer c.mu.Unlock()
					delete(c.conns, conn)
				}
			},
		}}
	}}
	s := server.New(nil)
	if err := s.Start(settings); err != nil {
		log.Fatal(err)
	}
	c.tell(map[string]any{"listening": s.Addr().String()})
	c.obey()
}
