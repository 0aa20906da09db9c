/// How the report looks: light and dark as the reader's system is, on a wide screen and on a phone.
enum Style {
    static let css = """
        :root{color-scheme:light dark;--bg:#f6f7f9;--card:#fff;--text:#1b1f24;--soft:#59636e;--line:#d9dee4;
        --grid:#e6e9ed;--good:#0a6b3d;--good-bg:#dcf3e6;--even-bg:#edf0f3;--bad:#9a3b00;--bad-bg:#fde7d6;
        --iocp:#1452cc;--iocp2:#3f83f8;--iocp3:#0e7fa8;--iocp4:#5b6ee1;--raw:#24292f;--nio:#d9480f;--asio:#8e3bb8;
        --asio2:#c2378a;--uv:#2b8a3e;--fio:#7a5200;--epoll:#087f7f;--plain:#8a6d00;--lock:#6b7280;
        --other0:#a03030;--other1:#556b2f;--other2:#7048a8;--other3:#00708f}
        @media(prefers-color-scheme:dark){:root{--bg:#0f1318;--card:#171c23;--text:#e8ecf1;--soft:#9aa6b2;--line:#2c343e;
        --grid:#232a33;--good:#6fdba0;--good-bg:#12351f;--even-bg:#232a33;--bad:#ffb27a;--bad-bg:#43230c;
        --iocp:#6ea8ff;--iocp2:#a5c8ff;--iocp3:#5cc8e8;--iocp4:#9aa7ff;--raw:#d5dbe2;--nio:#ff8a57;--asio:#c98bea;
        --asio2:#f17fbf;--uv:#6cc97d;--fio:#d1a04a;--epoll:#45c4c4;--plain:#d9bd4e;--lock:#9aa3af;
        --other0:#f08a8a;--other1:#a9c46c;--other2:#b79be8;--other3:#58b8d4}}
        *{box-sizing:border-box}html{-webkit-text-size-adjust:100%;scroll-behavior:smooth}
        body{margin:0;background:var(--bg);color:var(--text);
        font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
        header,main{max-width:1180px;margin:0 auto;padding:0 20px}
        header{padding-top:28px}h1{margin:0;font-size:1.9rem;line-height:1.2;letter-spacing:-.02em}
        header p{margin:.2em 0 .8em;color:var(--soft)}h2{margin:2.2em 0 .3em;font-size:1.45rem;letter-spacing:-.01em}
        .strip h2{margin-top:1.1em}h3{margin:0;font-size:1.08rem}h4{margin:0 0 .7em;font-size:.92rem}
        a{color:inherit;text-decoration-color:var(--line);text-underline-offset:.2em}
        a:focus-visible,summary:focus-visible,.scroll:focus-visible{outline:2px solid var(--iocp);outline-offset:2px}
        .about,.caption{margin:.1em 0 .9em;color:var(--soft);max-width:75ch}.caption{font-size:.9rem}.strip .caption{margin-top:1em}
        .machine{display:flex;flex-wrap:wrap;gap:.35em 1.6em;margin:0 0 .5em;font-size:.86rem}
        .machine div{display:flex;gap:.5em}dt{color:var(--soft)}dd{margin:0}
        .cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,500px),1fr));gap:18px}
        .card,.case,figure{background:var(--card);border:1px solid var(--line);border-radius:10px}
        .card{padding:16px 18px;min-width:0}.card.wide{grid-column:1/-1}
        .wide .verdicts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,300px),1fr));gap:.25em 1.4em}
        .verdicts small{display:block;color:var(--soft);font-size:.82rem}.card h3{display:flex;flex-wrap:wrap;gap:.3em .8em;align-items:center;
        justify-content:space-between;font-size:1.2rem}
        .card .about{margin:.1em 0 .8em;font-size:.9rem}.lead{margin:0 0 .3em;font-weight:600}
        .badge{font-size:.8rem;font-weight:600;padding:.15em .7em;border-radius:99px;white-space:nowrap}
        .badge.good,.chip.less,td.less{background:var(--good-bg);color:var(--good)}
        .badge.bad,.chip.more,td.more{background:var(--bad-bg);color:var(--bad)}
        .chip{padding:.05em .5em;border-radius:5px;white-space:nowrap}.chip.even,td.even{background:var(--even-bg)}
        .verdicts{list-style:none;margin:0 0 .9em;padding:0}
        .verdicts li{padding-left:.8em;border-left:4px solid var(--k);margin:.3em 0;line-height:1.35}
        .verdicts b{font-size:1.1rem}
        .scroll{overflow-x:auto;-webkit-overflow-scrolling:touch}
        table{border-collapse:separate;border-spacing:0;width:100%;font-size:.86rem;font-variant-numeric:tabular-nums}
        th,td{padding:.42em .65em;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
        thead th{color:var(--soft);font-weight:600;vertical-align:bottom}tbody tr:last-child>*{border-bottom:0}
        th[scope=row],thead th:first-child{text-align:left;position:sticky;left:0;background:var(--card);z-index:1}
        th[scope=row]{font-weight:500}tr.ours th,tr.ours td{font-weight:650}
        tr.ours td{background:color-mix(in srgb,var(--iocp) 9%,transparent)}
        th[scope=row]{white-space:normal;min-width:11em;max-width:17em}
        .matrix thead th,.matrix th[scope=row]{white-space:normal}.matrix th[scope=row]{min-width:9em}
        .matrix td{font-weight:600}td.none{color:var(--soft);font-weight:400}td.failed{text-align:left;color:var(--bad)}
        .dot{display:inline-block;width:.7em;height:.7em;border-radius:50%;background:var(--k);margin-right:.55em}
        .absent{list-style:none;margin:0;padding:0;font-size:.86rem;color:var(--soft);overflow-wrap:anywhere}
        details{margin-top:.7em;font-size:.88rem}summary{cursor:pointer;color:var(--soft)}
        .case{padding:16px 18px;margin:14px 0;min-width:0}.case>h3{margin-bottom:.8em}
        .figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,330px),1fr));gap:14px;margin-bottom:14px}
        @media(min-width:760px){.tall{grid-template-columns:1fr 1fr}.tall>:nth-child(3){grid-area:1/2/span 2}}
        figure{margin:0;padding:13px 14px;min-width:0}.case figure{background:none}
        figcaption{margin-top:.6em;font-size:.8rem;color:var(--soft)}
        .plot{display:block;width:100%;height:auto}.grid{stroke:var(--grid);fill:none}
        .axis{stroke:var(--soft);fill:none}.tick{fill:var(--soft);font-size:12.5px}
        .middle{text-anchor:middle}.end{text-anchor:end}.start{text-anchor:start}
        .line{stroke:var(--k);stroke-width:1.9;fill:none;stroke-linejoin:round}.k-iocp .line{stroke-width:3.2}
        .mark{fill:var(--k)}.whisker{stroke:var(--k);stroke-width:1.3;opacity:.75}
        .legend{list-style:none;display:flex;flex-wrap:wrap;gap:.2em 1.1em;margin:.5em 0 0;padding:0;font-size:.8rem}
        .legend li{display:flex;align-items:center;gap:.45em}.legend svg{width:28px;height:10px;flex:none}
        .legend .k-iocp{font-weight:650}
        .bars{list-style:none;margin:0;padding:0;font-size:.84rem}
        .bars li{display:grid;grid-template-columns:minmax(0,9.5em) 1fr 4.6em;gap:.1em .7em;align-items:center;
        padding:.26em 0}.bars .ours .who,.bars .ours .value{font-weight:650}
        .who{line-height:1.2;overflow-wrap:anywhere}.value{text-align:right;font-variant-numeric:tabular-nums;line-height:1.15}
        .value small{display:block;color:var(--soft);font-weight:400;font-size:.8em;white-space:nowrap}
        .track{position:relative;height:20px;background:var(--even-bg);border-radius:3px}
        .bar{position:absolute;inset:0 auto 0 0;background:var(--k);border-radius:3px;opacity:.55}.ours .bar{opacity:1}
        .bar.cut{border-radius:0;mask:linear-gradient(90deg,#000 85%,transparent)}
        .error{position:absolute;top:50%;height:0;border-top:2px solid var(--text)}
        .error::before,.error::after{content:"";position:absolute;top:-6px;height:10px;border-left:2px solid var(--text)}
        .error::before{left:0}.error::after{right:0}
        .ours .error,.ours .error::before,.ours .error::after{border-color:var(--text)}
        .track i{position:absolute;top:-4px;bottom:-4px;border-left:2px dotted var(--text)}
        .targets,.errors,.missed{list-style:none;margin:.9em 0 0;padding:0;font-size:.88rem}
        .targets li,.missed li{padding:.1em 0}.good>b:first-child{color:var(--good)}.bad>b:first-child{color:var(--bad)}
        .open{color:var(--soft)}.errors{color:var(--bad)}
        .columns{display:grid;grid-template-columns:minmax(0,max-content) minmax(0,1fr);gap:.35em 1.2em;font-size:.92rem}
        .columns dt{font-weight:600;color:var(--text)}#columns{padding-bottom:40px}#columns p{color:var(--soft);max-width:75ch}
        @media(max-width:560px){header,main{padding:0 13px}header{padding-top:18px}.card,.case{padding:13px 12px}
        .tick{font-size:15px}.columns{grid-template-columns:1fr;gap:0}.columns dd{margin-bottom:.6em}
        th[scope=row]{white-space:normal;min-width:7.5em;max-width:10.5em}
        .bars li{grid-template-columns:minmax(0,7.6em) 1fr 4.2em}figure{padding:11px 10px}}
        @media print{body{background:#fff}.card,.case,figure{break-inside:avoid}}
        \(classes)
        """

    /// The colour of each contestant.
    private static let classes = [
        "iocp", "iocp2", "iocp3", "iocp4", "raw", "nio", "asio", "asio2", "uv", "fio", "epoll", "plain", "lock",
        "other0", "other1", "other2", "other3",
    ].map { ".k-\($0){--k:var(--\($0))}" }.joined()
}
