// The Go collector's own reader, asked over a pipe: is this a request, and what do you make of it?
//
// Question: signal (1 traces, 2 metrics, 3 logs), encoding (0 protobuf, 1 JSON), length (u32 little-endian), bytes.
// Answer: 1 or 0, items (u32), length and bytes of the request as protobuf, length and bytes of it as JSON.
//
//	go build -o /tmp/pdata-now . && go build -modfile go-0.88.mod -o /tmp/pdata-0.88 .
//	PDATA=/tmp/pdata-now:/tmp/pdata-0.88 cargo test --lib otlp::tests::pdata -- --ignored
package main

import (
	"bufio"
	"encoding/binary"
	"io"
	"os"

	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"
)

type request interface {
	UnmarshalProto([]byte) error
	UnmarshalJSON([]byte) error
	MarshalProto() ([]byte, error)
	MarshalJSON() ([]byte, error)
}

func empty(signal byte) (request, func() int) {
	switch signal {
	case 1:
		r := ptraceotlp.NewExportRequest()
		return r, func() int { return r.Traces().SpanCount() }
	case 2:
		r := pmetricotlp.NewExportRequest()
		return r, func() int { return r.Metrics().DataPointCount() }
	default:
		r := plogotlp.NewExportRequest()
		return r, func() int { return r.Logs().LogRecordCount() }
	}
}

func read(signal, encoding byte, body []byte) (ok byte, items int, proto, json []byte) {
	defer func() {
		if recover() != nil {
			ok, items, proto, json = 0, 0, nil, nil
		}
	}()
	r, count := empty(signal)
	var err error
	if encoding == 0 {
		err = r.UnmarshalProto(body)
	} else {
		err = r.UnmarshalJSON(body)
	}
	if err != nil {
		return 0, 0, nil, nil
	}
	if proto, err = r.MarshalProto(); err != nil {
		return 0, 0, nil, nil
	}
	if json, err = r.MarshalJSON(); err != nil {
		json = nil
	}
	return 1, count(), proto, json
}

func main() {
	in, out := bufio.NewReader(os.Stdin), bufio.NewWriter(os.Stdout)
	for {
		var head [6]byte
		if _, err := io.ReadFull(in, head[:]); err != nil {
			return
		}
		body := make([]byte, binary.LittleEndian.Uint32(head[2:]))
		if _, err := io.ReadFull(in, body); err != nil {
			return
		}
		ok, items, proto, json := read(head[0], head[1], body)
		out.WriteByte(ok)
		binary.Write(out, binary.LittleEndian, uint32(items))
		for _, answer := range [][]byte{proto, json} {
			binary.Write(out, binary.LittleEndian, uint32(len(answer)))
			out.Write(answer)
		}
		out.Flush()
	}
}
